//! Many datagrams in one system call (`sendmmsg`), and those of one size in one pass through the
//! kernel's stack (`UDP_SEGMENT`, udp(7)), which costs a third of as many by themselves.

use std::{io, mem, os::fd::RawFd, ptr};

/// Datagrams that the kernel cuts out of one, at most (`UDP_MAX_SEGMENTS` of older kernels).
const SEGMENTS: usize = 64;
/// Octets of them together: what one datagram over IPv4 can have, without headers.
const SEGMENTS_OCTETS: usize = 65_507;

/// Datagrams on their way into the kernel.
#[derive(Debug, Default)]
pub(super) struct Burst {
    /// How many octets each has, and where they are.
    parts: Vec<Part>,
    runs: Vec<Run>,
    /// This time each goes by itself.
    whole_only: bool,
    /// And always: the device or the kernel does not cut.
    never_cuts: bool,
}

/// A datagram, as `iovec`.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
struct Part(libc::iovec);

// SAFETY: the pointers are used within `Burst::send` only, where what they point to is borrowed.
unsafe impl Send for Part {}

/// Datagrams of one size, of which the last may be shorter.
#[derive(Clone, Copy, Debug)]
struct Run {
    start: usize,
    count: usize,
    /// Octets of the first one.
    size: usize,
    octets: usize,
}

/// Room for the one control message, aligned as its header.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL]);

// SAFETY: plain arithmetic on the size of a u16.
const CONTROL: usize = unsafe { libc::CMSG_SPACE(size_of::<u16>() as u32) } as usize;

impl Burst {
    /// Sends the messages in their order; returns how many, and why no more.
    pub(super) fn send(
        &mut self,
        socket: RawFd,
        messages: &mut dyn Iterator<Item = &[u8]>,
    ) -> (usize, io::Result<()>) {
        self.whole_only = self.never_cuts;
        self.plan(messages);
        let mut sent = 0;
        let mut result = Ok(());
        while sent < self.parts.len() && result.is_ok() {
            match self.hand_over(socket, sent) {
                Ok(taken) => sent += taken,
                Err(error) if self.refuses_to_cut(&error) => {
                    self.whole_only = true;
                    self.plan_runs(sent);
                }
                Err(error) => result = Err(error),
            }
        }
        self.parts.clear();
        (sent, result)
    }

    /// Whether what was refused may be the cutting. If it was not, the next datagram is refused by
    /// itself too.
    fn refuses_to_cut(&mut self, error: &io::Error) -> bool {
        if self.runs.first().is_none_or(|run| run.count == 1) {
            return false;
        }
        let cause = error.raw_os_error();
        // No checksums from the device, or a kernel before 4.18.
        let never = matches!(cause, Some(libc::EIO | libc::EOPNOTSUPP));
        self.never_cuts |= never;
        // Longer than the path takes now.
        never || matches!(cause, Some(libc::EINVAL | libc::EMSGSIZE))
    }

    fn plan(&mut self, messages: &mut dyn Iterator<Item = &[u8]>) {
        self.parts.clear();
        self.parts.extend(messages.map(|message| {
            Part(libc::iovec {
                iov_base: message.as_ptr().cast_mut().cast(),
                iov_len: message.len(),
            })
        }));
        self.plan_runs(0);
    }

    /// Puts the datagrams from `first` on into runs.
    fn plan_runs(&mut self, first: usize) {
        self.runs.clear();
        for (i, Part(part)) in self.parts.iter().enumerate().skip(first) {
            let octets = part.iov_len;
            if let Some(run) = self.runs.last_mut() {
                // A shorter one ends its run.
                let even = run.octets == run.count * run.size;
                let fits = run.count < SEGMENTS && run.octets + octets <= SEGMENTS_OCTETS;
                if !self.whole_only && even && octets <= run.size && fits {
                    run.count += 1;
                    run.octets += octets;
                    continue;
                }
            }
            self.runs.push(Run {
                start: i,
                count: 1,
                size: octets,
                octets,
            });
        }
    }

    /// Hands over runs from that of the datagram `first` on; returns how many datagrams that was.
    fn hand_over(&mut self, socket: RawFd, first: usize) -> io::Result<usize> {
        /// Runs in one call.
        const RUNS: usize = 16;
        let begin = self.runs.partition_point(|run| run.start < first);
        self.runs.drain(..begin);
        let mut controls = [Control([0; CONTROL]); RUNS];
        // SAFETY: all zeros is an mmsghdr without name, parts and control.
        let mut headers: [libc::mmsghdr; RUNS] = unsafe { mem::zeroed() };
        let runs = &self.runs[..self.runs.len().min(RUNS)];
        for ((header, control), run) in headers.iter_mut().zip(&mut controls).zip(runs) {
            let header = &mut header.msg_hdr;
            // Part is an iovec (repr(transparent)).
            header.msg_iov = self.parts[run.start..].as_mut_ptr().cast();
            header.msg_iovlen = run.count as _;
            if run.count > 1 {
                header.msg_control = ptr::from_mut(control).cast();
                header.msg_controllen = CONTROL as _;
                // SAFETY: the control buffer has room for one message of a u16, and is aligned.
                unsafe {
                    let message = libc::CMSG_FIRSTHDR(header);
                    (*message).cmsg_level = libc::SOL_UDP;
                    (*message).cmsg_type = libc::UDP_SEGMENT;
                    (*message).cmsg_len = libc::CMSG_LEN(size_of::<u16>() as u32) as _;
                    libc::CMSG_DATA(message)
                        .cast::<u16>()
                        .write_unaligned(run.size as u16);
                }
            }
        }
        // SAFETY: the headers point to parts and controls that outlive the call; the parts point to
        // messages that `send` has borrowed.
        let taken = unsafe {
            libc::sendmmsg(
                socket,
                headers.as_mut_ptr(),
                runs.len() as u32,
                libc::MSG_DONTWAIT,
            )
        };
        let taken = usize::try_from(taken).map_err(|_| io::Error::last_os_error())?;
        Ok(runs[..taken].iter().map(|run| run.count).sum())
    }
}

#[cfg(test)]
mod tests {
    use std::{net::UdpSocket, os::fd::AsRawFd as _};

    use super::*;

    /// Messages of these lengths arrive each by itself, in order.
    fn assert_arrive(lengths: &[usize], burst: &mut Burst) {
        let [from, to] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").expect("binds"));
        from.connect(to.local_addr().expect("bound"))
            .expect("connects");
        let messages: Vec<Vec<u8>> = lengths
            .iter()
            .enumerate()
            .map(|(i, length)| vec![i as u8; *length])
            .collect();
        let (sent, result) = burst.send(from.as_raw_fd(), &mut messages.iter().map(|m| &m[..]));
        result.expect("sent");
        assert_eq!(sent, messages.len());
        let mut buffer = [0; 65_536];
        for message in &messages {
            let octets = to.recv(&mut buffer).expect("a message");
            assert_eq!(buffer[..octets], message[..]);
        }
    }

    #[test]
    fn datagrams_of_all_sizes_arrive_as_they_are() {
        for never_cuts in [false, true] {
            let mut burst = Burst {
                never_cuts,
                ..Burst::default()
            };
            assert_arrive(&[], &mut burst);
            assert_arrive(&[100], &mut burst);
            assert_arrive(&[1352; 44], &mut burst);
            assert_arrive(
                &[[1352; 5].as_slice(), &[400, 1352, 1352]].concat(),
                &mut burst,
            );
            assert_arrive(&[10, 20, 30, 20, 20, 10, 5], &mut burst);
            assert_arrive(&[20; 150], &mut burst);
        }
    }

    #[test]
    fn runs_are_of_one_size_and_of_what_the_kernel_takes() {
        let mut burst = Burst::default();
        let message = [0; 1400];
        let mut runs = |lengths: &[usize]| -> Vec<usize> {
            burst.plan(&mut lengths.iter().map(|length| &message[..*length]));
            burst.runs.iter().map(|run| run.count).collect()
        };
        assert_eq!(runs(&[1400; 50]), [46, 4], "64 KiB");
        assert_eq!(runs(&[100; 70]), [64, 6]);
        assert_eq!(runs(&[9, 9, 5, 5, 9, 10]), [3, 1, 1, 1]);
    }

    /// What was handed over before an error counts, and the error is of the next one.
    #[test]
    fn an_error_is_that_of_the_next_datagram() {
        let [from, to] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").expect("binds"));
        from.connect(to.local_addr().expect("bound"))
            .expect("connects");
        let lengths = [vec![100; 20], vec![65_600], vec![100]].concat();
        let message = vec![7; 65_600];
        let mut messages = lengths.iter().map(|length| &message[..*length]);
        let mut burst = Burst::default();
        let (sent, result) = burst.send(from.as_raw_fd(), &mut messages);
        assert_eq!(sent, 20);
        let error = result.expect_err("too big");
        assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
        assert!(!burst.never_cuts);
    }
}
