//! Packets that the program hands over by AF_XDP: each of them arrives in a queue with its note, or
//! is in a counter; and whoever does not take them leaves the stack its packets.

mod bypass;
mod faults;
mod handed;
mod life;
mod rig;
