//! pmacct's nfacctd.

use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    process::{Child, Stdio},
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{Directory, wait_for_port};
use crate::{
    flow::{Counts, Flow, Key},
    netns::Netns,
    probe::end_with_parent,
};

/// A running nfacctd.
#[derive(Debug)]
pub struct Nfacctd {
    child: Child,
    directory: Directory,
}

/// What nfacctd is asked to keep apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sum {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// IP protocol.
    pub protocol: u8,
    /// Type of service or traffic class.
    pub traffic_class: u8,
    /// VLAN identifier.
    pub vlan: u16,
    /// Top MPLS label, 20 bits.
    pub top_label: u32,
}

impl Sum {
    /// The sum that a flow belongs to.
    #[must_use]
    pub fn of(flow: &Flow) -> Self {
        Self::of_key(&flow.key)
    }

    /// The sum that a flow of this key belongs to.
    #[must_use]
    pub fn of_key(key: &Key) -> Self {
        Self {
            source: key.source,
            destination: key.destination,
            source_port: key.source_port,
            destination_port: key.destination_port,
            protocol: key.protocol,
            traffic_class: key.traffic_class,
            vlan: key.vlan,
            top_label: key.around.labels[0] >> 4,
        }
    }

    fn read(text: &str) -> Result<(Self, Counts)> {
        let object: Value = serde_json::from_str(text)?;
        let number = |name: &str| {
            let number = object.get(name).and_then(Value::as_u64);
            number.with_context(|| format!("no {name}: {text}"))
        };
        let address = |name: &str| -> Result<IpAddr> {
            let address = object.get(name).and_then(Value::as_str);
            let address = address.with_context(|| format!("no {name}: {text}"))?;
            address.parse().with_context(|| address.to_owned())
        };
        let sum = Self {
            source: address("ip_src")?,
            destination: address("ip_dst")?,
            source_port: number("port_src")?.try_into()?,
            destination_port: number("port_dst")?.try_into()?,
            protocol: protocol(object.get("ip_proto").and_then(Value::as_str))
                .with_context(|| format!("ip_proto: {text}"))?,
            traffic_class: number("tos")?.try_into()?,
            vlan: number("vlan")?.try_into()?,
            top_label: number("mpls_label_top")?.try_into()?,
        };
        let counts = Counts {
            packets: number("packets")?,
            octets: number("bytes")?,
        };
        Ok((sum, counts))
    }
}

/// The number of a protocol that pmacct 1.7.7 prints by its name.
fn protocol(name: Option<&str>) -> Option<u8> {
    Some(match name? {
        "icmp" => 1,
        "tcp" => 6,
        "udp" => 17,
        "gre" => 47,
        "ipv6-icmp" => 58,
        "pim" => 103,
        "sctp" => 132,
        _ => return None,
    })
}

impl Nfacctd {
    /// Starts it at 127.0.0.1 in a namespace, and waits until it listens.
    ///
    /// # Errors
    /// Where it is not installed or does not start.
    pub fn start(namespace: &Netns, port: u16) -> Result<Self> {
        Self::start_with(namespace, port, "")
    }

    /// The same, but it multiplies counters by the sampling rate that it was told.
    ///
    /// # Errors
    /// Where it is not installed or does not start.
    pub fn renormalising(namespace: &Netns, port: u16) -> Result<Self> {
        Self::start_with(namespace, port, "nfacctd_renormalize: true\n")
    }

    fn start_with(namespace: &Netns, port: u16, more: &str) -> Result<Self> {
        let directory = Directory::new(&format!("{}-nfacctd-{port}", namespace.name()))?;
        let settings = directory.path().join("nfacctd.conf");
        let output = directory.path().join("flows.json");
        let text = format!(
            "nfacctd_ip: 127.0.0.1\nnfacctd_port: {port}\nplugins: print\nprint_output: json\n\
             print_output_file: {}\nprint_refresh_time: 3600\n\
             aggregate: src_host, dst_host, src_port, dst_port, proto, tos, vlan, mpls_label_top\n{more}",
            output.display()
        );
        fs::write(&settings, text)?;
        let mut command = namespace.command("nfacctd");
        command.arg("-f").arg(&settings);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(Stdio::null());
        end_with_parent(&mut command);
        let child = command.spawn().context("cannot run ip netns exec")?;
        let nfacctd = Self { child, directory };
        wait_for_port(namespace, port, "nfacctd does not listen (package pmacct)")?;
        Ok(nfacctd)
    }

    /// Ends it in order, so that it writes its file, and reads that.
    ///
    /// # Errors
    /// Where the file is not there or not as pmacct 1.7.7 writes it.
    pub fn stop(mut self) -> Result<BTreeMap<Sum, Counts>> {
        let pid = i32::try_from(self.child.id())?;
        // SAFETY: a plain system call; the child is not waited for yet, so the number is its own.
        unsafe { libc::kill(pid, libc::SIGINT) };
        self.child.wait()?;
        let text = fs::read_to_string(self.directory.path().join("flows.json"))?;
        text.lines().map(Sum::read).collect()
    }
}

impl Drop for Nfacctd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
