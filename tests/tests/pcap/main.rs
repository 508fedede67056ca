//! `flowprobe pcap`: captures of every kind that it reads, and what it says of others.

mod real;
