//! The program that asks the device for the VLAN tag beside a frame: made ready once, loaded for
//! each interface.
//!
//! aya loads neither programs that are bound to a device nor calls of the kernel's own functions.

use std::{
    ffi::CString,
    iter,
    os::fd::{AsFd as _, OwnedFd},
};

use aya_obj::{
    btf::{Btf, BtfError, BtfKind},
    generated::{BPF_ALU64, BPF_CALL, BPF_JEQ, BPF_JMP, BPF_MOV, BPF_PSEUDO_KFUNC_CALL, bpf_insn},
};
use flowprobe_ebpf::rx_vlan::{KFUNC, PLACEHOLDER};

use super::linked::{LinkError, Linked, octets};
use crate::{
    attach::{self, AttachError, Attached, Interface, XdpMode, missed_tags, tells_tags},
    bpf::{self, LinkedProgram},
};

/// The two entries that meter, without frames of several buffers and with them.
pub(super) const METERING: [&str; 2] = ["flowprobe_rx_vlan", "flowprobe_rx_vlan_frags"];

/// Why VLAN tags cannot be asked for.
#[derive(Debug, thiserror::Error)]
pub enum RxVlanError {
    /// The object is of other making.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The object is older than this program.
    #[error("the BPF object's program {0} asks for no tags")]
    AsksForNone(&'static str),
    /// The kernel says nothing of its functions, or has not the one that is needed.
    #[error("this kernel has no function {KFUNC}, which is there since 6.8 ({0})")]
    NoFunction(#[from] BtfError),
    /// The kernel would move the program, and before the repair of CVE-2026-53094 crash where its
    /// device goes away.
    #[error(
        "net.core.bpf_jit_harden is 2, with which \
         kernels crash when the interface goes away: 1 is enough against unprivileged programs"
    )]
    Hardened,
    /// The kernel may have moved the program, which is why there is room in front of it.
    #[error("the kernel has rewritten the program {0} to more than its room")]
    Outgrown(&'static str),
    /// The kernel does not tell how long the program has become.
    #[error("the kernel does not tell the length of the program {name}: {source}")]
    Length {
        /// Which one.
        name: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// The kernel refused the program.
    #[error(
        "the kernel refused the program {name}: {source}; --log debug shows the verifier's log"
    )]
    Refused {
        /// Which one.
        name: &'static str,
        /// The kernel's answer.
        source: std::io::Error,
    },
}

/// Both entries, ready to be loaded for an interface.
#[derive(Debug)]
pub struct RxVlan {
    names: [&'static str; 2],
    /// Without frames of several buffers, and with them.
    entries: [Vec<[u8; 8]>; 2],
    license: CString,
}

impl RxVlan {
    /// Makes two entries of a linked object ready.
    pub(super) fn new(linked: &Linked, names: [&'static str; 2]) -> Result<Self, RxVlanError> {
        if is_hardened() {
            return Err(RxVlanError::Hardened);
        }
        let function = Btf::from_sys_fs()?.id_by_type_name_kind(KFUNC, BtfKind::Func)?;
        let [linear, frags] = names;
        Ok(Self {
            names,
            entries: [
                instructions(linked, linear, function)?,
                instructions(linked, frags, function)?,
            ],
            license: linked.license().to_owned(),
        })
    }

    /// Loads the program for one interface of this network namespace; it cannot be attached to
    /// another.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn load(&self, ifindex: u32, frags: bool) -> Result<OwnedFd, RxVlanError> {
        let name = self.names[usize::from(frags)];
        let instructions = &self.entries[usize::from(frags)];
        let program = LinkedProgram {
            name,
            instructions,
            license: &self.license,
            frags,
            ifindex: Some(ifindex),
        };
        let loaded = bpf::load_linked(&program).map_err(|(source, log)| {
            tracing::debug!("the verifier on {name}: {log}");
            RxVlanError::Refused { name, source }
        })?;
        let rewritten = bpf::rewritten_len(loaded.as_fd())
            .map_err(|source| RxVlanError::Length { name, source })?;
        match rewritten <= size_of_val(&instructions[..]) {
            true => Ok(loaded),
            false => Err(RxVlanError::Outgrown(name)),
        }
    }

    /// Attaches it: with frags, or else without.
    fn attach(&self, interface: &Interface) -> Result<Attached, Refused> {
        let attempt = |frags| {
            let loaded = self.load(interface.index, frags)?;
            Ok(attach::attach_bound(interface, loaded, frags)?)
        };
        attempt(true).or_else(|refused| match refused {
            Refused::Attach(error) if !error.linear_may_work() => Err(error.into()),
            _ => attempt(false),
        })
    }
}

/// Why an interface gets the ordinary program.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error(transparent)]
    Load(#[from] RxVlanError),
    #[error(transparent)]
    Attach(#[from] AttachError),
}

/// Attaches a program to an interface on which tags may stand beside packets; it is asked for there
/// only. `None` where there are none, or where they cannot be read, which is said then: it is the
/// ordinary program's turn.
///
/// # Errors
/// What is as bad for the ordinary program: the interface is taken, or the like.
pub(crate) fn attach<'a>(
    interface: &Interface,
    mode: XdpMode,
    program: impl FnOnce() -> Result<&'a RxVlan, RxVlanError>,
) -> Result<Option<Attached>, AttachError> {
    let facts = interface.facts()?;
    if !tells_tags(&facts, mode) {
        return Ok(None);
    }
    let attached = program()
        .map_err(Refused::from)
        .and_then(|program| program.attach(interface));
    match attached {
        Ok(attached) => Ok(Some(attached)),
        Err(Refused::Attach(error)) if !error.generic_may_work() => Err(error),
        Err(refused) => {
            tracing::info!(
                interface = interface.name,
                "VLAN tags beside packets cannot be read: {refused}"
            );
            if let Some(finding) = missed_tags(&facts) {
                tracing::warn!("{finding}");
            }
            Ok(None)
        }
    }
}

/// Instructions without effect in front of the program, which the kernel takes out before it puts
/// in its own, some 120 of them. A program that grows beyond the pages in which it was loaded is
/// moved, and the device is not told (`bpf_prog_realloc`, which leaves `offload->prog`; seen with
/// 6.18). Were the device to go away while such a program is loaded, the kernel would follow the
/// stale pointer, and die of it with the lock of the whole network held.
const ROOM: i16 = 1024;

/// The program behind its room, which the verifier knows to be jumped over.
fn with_room(program: impl Iterator<Item = [u8; 8]>) -> Vec<[u8; 8]> {
    let zero = instruction(BPF_ALU64 | BPF_MOV, 0);
    let over = instruction(BPF_JMP | BPF_JEQ, ROOM);
    let room = iter::repeat_n(zero, ROOM as usize);
    iter::once(zero)
        .chain([over])
        .chain(room)
        .chain(program)
        .collect()
}

/// An operation on r0 with the number 0.
fn instruction(code: u32, offset: i16) -> [u8; 8] {
    let [a, b] = offset.to_ne_bytes();
    [code as u8, 0, a, b, 0, 0, 0, 0]
}

/// Whether the kernel blinds the constants of all programs, for which it copies them. Only the first
/// network namespace has the file that says so, so a program with a constant shows it; where the
/// kernel does not tell, it may.
fn is_hardened() -> bool {
    let rewritten = bpf::load_pass(false).and_then(|pass| bpf::rewritten_len(pass.as_fd()));
    rewritten.map_or(true, |octets| octets > bpf::PASS_LEN)
}

/// The instructions of a linked program behind their [`ROOM`], with a call of the kernel's function
/// in each place that is held for it.
fn instructions(
    linked: &Linked,
    name: &'static str,
    function: u32,
) -> Result<Vec<[u8; 8]>, RxVlanError> {
    let mut instructions = linked.program(name)?;
    let mut calls = 0;
    for instruction in &mut instructions {
        calls += u32::from(resolve(instruction, function));
    }
    if calls == 0 {
        return Err(RxVlanError::AsksForNone(name));
    }
    Ok(with_room(instructions.iter().map(octets)))
}

/// Makes a call of the kernel's function of one that stands for it; says whether this was one.
fn resolve(instruction: &mut bpf_insn, function: u32) -> bool {
    let call = u32::from(instruction.code) == BPF_JMP | BPF_CALL;
    let held = call && instruction.src_reg() == 0 && instruction.imm == PLACEHOLDER.cast_signed();
    if held {
        instruction.set_src_reg(BPF_PSEUDO_KFUNC_CALL as u8);
        instruction.imm = function.cast_signed();
        // The function is the kernel's own, and no module's.
        instruction.off = 0;
    }
    held
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(register: u8, number: i32) -> bpf_insn {
        let mut instruction = bpf_insn {
            code: 0x85,
            ..copied([0; 8])
        };
        instruction.set_src_reg(register);
        instruction.imm = number;
        instruction
    }

    fn copied(octets: [u8; 8]) -> bpf_insn {
        aya_obj::copy_instructions(&octets).unwrap()[0]
    }

    #[test]
    fn only_the_call_that_is_held_becomes_one_of_the_function() {
        let mut held = call(0, PLACEHOLDER.cast_signed());
        assert!(resolve(&mut held, 0x0102_0304));
        // Operation, registers (source 2), offset, number.
        let mut expected = [0x85, 0x20, 0, 0, 0, 0, 0, 0];
        if cfg!(target_endian = "big") {
            expected[1] = 0x02;
        }
        expected[4..].copy_from_slice(&0x0102_0304_u32.to_ne_bytes());
        assert_eq!(octets(&held), expected);
        for mut other in [
            call(0, 14),
            call(1, PLACEHOLDER.cast_signed()),
            copied([0x18, 0, 0, 0, 1, 0, 0xff, 0x7f]),
        ] {
            let before = octets(&other);
            assert!(!resolve(&mut other, 1));
            assert_eq!(octets(&other), before);
        }
    }

    #[test]
    fn the_room_is_jumped_over() {
        let program = [[0x95, 0, 0, 0, 0, 0, 0, 0], [0xb7, 1, 0, 0, 2, 0, 0, 0]];
        let whole = with_room(program.into_iter());
        // r0 = 0; if r0 == 0, on behind as many instructions as the offset says.
        let [zero, over, rest @ ..] = &whole[..] else {
            panic!("no room");
        };
        assert_eq!(*zero, [0xb7, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!((over[0], over[1], &over[4..]), (0x15, 0, &[0; 4][..]));
        let room = i16::from_ne_bytes([over[2], over[3]]) as usize;
        assert_eq!(rest[room..], program);
        assert!(rest[..room].iter().all(|filler| filler == zero));
    }

    #[test]
    fn instructions_stay_as_they_are_in_memory() {
        for raw in [
            [0x61, 0x12, 4, 0, 0, 0, 0, 0],
            [0x2d, 0x34, 0xff, 0xff, 1, 2, 3, 4],
        ] {
            assert_eq!(octets(&copied(raw)), raw);
        }
    }
}
