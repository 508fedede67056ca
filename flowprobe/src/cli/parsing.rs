//! Options that say which of a frame's headers make the flow, for every input.

use clap::{Args, ValueEnum};
use flowprobe_ebpf::{
    Tunnels,
    parse::tunnel::PORTS,
    wire::{geneve, gtpu, vxlan},
};

/// Which of a frame's headers make the flow.
#[derive(Clone, Debug, Args)]
pub struct Parsing {
    /// In a tunnel (GRE, NVGRE, IP in IP, VXLAN, GENEVE, GTP-U), count the outer packet
    /// or the one inside; its flow then names tunnel and outer addresses
    #[arg(long, value_name = "WHICH", default_value = "outer")]
    pub tunnels: Which,

    /// UDP ports of VXLAN, up to four, separated by commas
    #[arg(long, value_name = "PORTS", default_value_t = Ports::one(vxlan::PORT))]
    pub vxlan_port: Ports,

    /// UDP ports of GENEVE
    #[arg(long, value_name = "PORTS", default_value_t = Ports::one(geneve::PORT))]
    pub geneve_port: Ports,

    /// UDP ports of GTP-U
    #[arg(long, value_name = "PORTS", default_value_t = Ports::one(gtpu::PORT))]
    pub gtpu_port: Ports,
}

/// The packet around a tunnel, or the one in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Which {
    /// The packet that was received.
    Outer,
    /// The packet in the tunnel, if there is one; one level.
    Inner,
}

/// Up to [`PORTS`] ports; 0 is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports([u16; PORTS]);

impl Ports {
    const fn one(port: u16) -> Self {
        Self([port, 0, 0, 0])
    }
}

impl std::str::FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = || format!("give 1 to {PORTS} ports from 1 to 65535, for example 4789,8472");
        let mut ports = [0; PORTS];
        for (i, port) in text.split(',').enumerate() {
            let place = ports.get_mut(i).ok_or_else(wanted)?;
            *place = port.trim().parse().map_err(|_| wanted())?;
            if *place == 0 {
                return Err(wanted());
            }
        }
        Ok(Self(ports))
    }
}

impl std::fmt::Display for Ports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ports: Vec<_> = self.0.iter().filter(|port| **port != 0).collect();
        let text: Vec<_> = ports.iter().map(ToString::to_string).collect();
        f.write_str(&text.join(","))
    }
}

impl From<&Parsing> for Tunnels {
    fn from(parsing: &Parsing) -> Self {
        match parsing.tunnels {
            Which::Outer => Self::OUTER,
            Which::Inner => Self {
                inner: true,
                vxlan: parsing.vxlan_port.0,
                geneve: parsing.geneve_port.0,
                gtpu: parsing.gtpu_port.0,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_a_short_list() {
        assert_eq!("4789".parse(), Ok(Ports::one(4789)));
        assert_eq!("4789, 8472".parse(), Ok(Ports([4789, 8472, 0, 0])));
        assert_eq!(Ports([4789, 8472, 0, 0]).to_string(), "4789,8472");
        for bad in ["", "0", "65536", "1,2,3,4,5", "x", "1,,2"] {
            assert!(bad.parse::<Ports>().is_err(), "{bad}");
        }
    }
}
