//! The object linked with maps that are there already, for programs that aya does not load: those
//! that are bound to a device, call functions of the kernel, or use a map that is not in the object.
//!
//! This does what aya does for the others: puts in the maps, which are those that aya has made, and
//! links the functions. No BTF comes with it: functions without are static, which these are.

use std::{
    ffi::CStr,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
};

use aya::{Ebpf, maps::Map};
use aya_obj::{Object, ParseError, generated::bpf_insn, relocation::EbpfRelocationError};

/// Why the object could not be linked.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Not an object.
    #[error("the BPF object cannot be read again: {0}")]
    Object(#[from] ParseError),
    /// The object is of other making.
    #[error("the BPF object has no program {0}: was it built by `cargo xtask build-ebpf`?")]
    NoProgram(&'static str),
    /// A map is missing.
    #[error("the BPF object's map {0} was not loaded")]
    NoMap(String),
    /// The object's references do not fit.
    #[error("the BPF object cannot be linked: {0}")]
    Link(#[from] EbpfRelocationError),
}

/// The map in the object that stands for one of sockets.
const SOCKETS: &str = "SOCKETS";

/// A linked object.
#[derive(Debug)]
pub(super) struct Linked {
    object: Object,
}

impl Linked {
    /// Links `object` with the maps of `ebpf`, which was loaded from it, and with a map of sockets in
    /// the place that is held for one.
    pub(super) fn new(
        object: &[u8],
        ebpf: &Ebpf,
        sockets: Option<BorrowedFd<'_>>,
    ) -> Result<Self, LinkError> {
        let mut object = Object::parse(object)?;
        let sections = object.functions.keys().map(|(section, _)| *section);
        let sections = sections.collect();
        let maps = std::mem::take(&mut object.maps);
        let mut loaded = Vec::new();
        for (name, map) in &maps {
            let sockets = sockets.filter(|_| name == SOCKETS);
            let fd = sockets
                .or_else(|| map_fd(ebpf, name))
                .ok_or_else(|| LinkError::NoMap(name.clone()))?;
            loaded.push((name.as_str(), fd.as_raw_fd(), map));
        }
        object.relocate_maps(loaded.into_iter(), &sections)?;
        object.relocate_calls(&sections)?;
        Ok(Self { object })
    }

    /// The license of all programs.
    pub(super) fn license(&self) -> &CStr {
        &self.object.license
    }

    /// The instructions of a program.
    pub(super) fn program(&self, name: &'static str) -> Result<Vec<bpf_insn>, LinkError> {
        let program = self.object.programs.get(name);
        let linked = program.and_then(|program| self.object.functions.get(&program.function_key()));
        let linked = linked.ok_or(LinkError::NoProgram(name))?;
        Ok(linked.instructions.clone())
    }
}

/// linux/bpf.h: struct bpf_insn.
pub(super) fn octets(instruction: &bpf_insn) -> [u8; 8] {
    let [a, b] = instruction.off.to_ne_bytes();
    let [c, d, e, f] = instruction.imm.to_ne_bytes();
    let registers = if cfg!(target_endian = "little") {
        instruction.dst_reg() | instruction.src_reg() << 4
    } else {
        instruction.dst_reg() << 4 | instruction.src_reg()
    };
    [instruction.code, registers, a, b, c, d, e, f]
}

/// The maps of the program, and what a debug build of it logs through.
fn map_fd<'a>(ebpf: &'a Ebpf, name: &str) -> Option<BorrowedFd<'a>> {
    match ebpf.map(name)? {
        Map::Array(map) | Map::RingBuf(map) => Some(map.fd().as_fd()),
        _ => None,
    }
}
