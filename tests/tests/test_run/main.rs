//! The program as the kernel runs it, packet by packet through BPF_PROG_TEST_RUN: that it sees in
//! a frame what the parser sees on the host, and where packets go when there is no room.

mod change;
mod classes;
mod content;
mod fragments;
mod meter;
mod restart;
mod room;
mod same_parser;
mod sampling;
mod shadow;
mod super_frames;
