//! One truth: the same frames through every input give the same flow records.
//!
//! Key, counters, flags, TTLs, options and reasons are equal, and so is what is ignored, and why.
//! Interface and direction are those of the place where the frames were seen. Times are compared by the
//! volley that a flow begins and ends with: the gaps between volleys are far from the timeouts and far
//! above the bound of the live inputs' clock. What all have to say is in `golden`, by `flowprobe pcap`:
//!
//!     FLOWPROBE_OVERWRITE=1 cargo nextest run -p flowprobe-tests --test one_truth pcap

mod golden;
mod input;
mod recording;

use anyhow::Result;

use self::{
    input::{INPUTS, Input},
    recording::Recording,
};

fn compare(name: &str, recording: &Recording) -> Result<()> {
    let input = INPUTS.iter().find(|input| input.name() == name);
    let input = input.unwrap_or_else(|| panic!("no input is called {name}"));
    let told = input.meter(recording)?;
    let truth = Input::Pcap.meter(recording)?;
    golden::check(recording, &told.lines(), &truth.lines())
}

macro_rules! inputs {
    ($($name:ident),*) => {
        $(mod $name {
            use super::*;

            #[test]
            fn written_frames() -> Result<()> {
                compare(stringify!($name), &recording::written())
            }

            #[test]
            fn real_frames() -> Result<()> {
                compare(stringify!($name), &recording::real()?)
            }
        })*

        #[test]
        fn each_input_has_its_tests() {
            let names = INPUTS.map(|input| input.name());
            assert_eq!(names, [$(stringify!($name)),*]);
        }
    };
}

inputs!(pcap, xdp, afxdp, tc, egress);
