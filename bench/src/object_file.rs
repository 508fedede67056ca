//! One program of an object file, loaded with libbpf, or with aya where libbpf cannot.

use std::{
    collections::BTreeMap,
    fs,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    path::Path,
    ptr,
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::{
    EbpfLoader,
    programs::{SchedClassifier, Xdp},
};
use libbpf_rs::{AsRawLibbpf as _, MapCore as _, MapHandle, MapType, ObjectBuilder, ProgramType};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _};

use crate::dispatcher::Kind;

/// What to change in an object before it is loaded.
#[derive(Clone, Debug, Default)]
pub(crate) struct Edits {
    /// Initial values of integer variables in `.rodata` or `.data`.
    pub(crate) globals: BTreeMap<String, u64>,
    /// `max_entries` of maps.
    pub(crate) entries: BTreeMap<String, u32>,
}

/// A loaded program, and its maps.
pub(crate) struct Loaded {
    program: OwnedFd,
    maps: Vec<MapHandle>,
}

impl Loaded {
    /// Loads `program` of the ELF file at `path`. The other programs stay unloaded, and pins
    /// are dropped: nothing outlives the value.
    pub(crate) fn new(path: &Path, program: &str, kind: Kind, edits: &Edits) -> Result<Self> {
        let context = || format!("{}: {program}", path.display());
        let mut elf = fs::read(path).with_context(|| path.display().to_string())?;
        set_globals(&mut elf, &edits.globals).with_context(context)?;
        // aya's older style of maps, and only it, has this section.
        let aya_maps = object::File::parse(&*elf)
            .with_context(context)?
            .section_by_name("maps")
            .is_some();
        let load = if aya_maps { with_aya } else { with_libbpf };
        let program = load(&elf, program, kind, &edits.entries).with_context(context)?;
        let maps = map_ids(program.as_fd())?;
        let maps = maps.into_iter().map(MapHandle::from_map_id);
        Ok(Self {
            maps: maps.collect::<Result<_, _>>().context("maps")?,
            program,
        })
    }

    /// The program.
    pub(crate) fn program(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }

    /// Keys in the fullest hash map; `None` where the program has no hash map.
    pub(crate) fn keys(&self) -> Option<usize> {
        let hashes = self.maps.iter().filter(|map| {
            use MapType::{Hash, LruHash, LruPercpuHash, PercpuHash};
            matches!(map.map_type(), Hash | PercpuHash | LruHash | LruPercpuHash)
        });
        hashes.map(|map| map.keys().count()).max()
    }

    /// The BPF ring buffers of the program.
    pub(crate) fn ring_buffers(&self) -> impl Iterator<Item = &MapHandle> {
        let maps = self.maps.iter();
        maps.filter(|map| map.map_type() == MapType::RingBuf)
    }
}

/// Most maps of a program (MAX_USED_MAPS of the kernel).
const MAX_MAPS: usize = 64;

/// The ids of the maps that a loaded program uses.
fn map_ids(program: BorrowedFd<'_>) -> Result<Vec<u32>> {
    let mut ids = vec![0_u32; MAX_MAPS];
    let mut info = libbpf_sys::bpf_prog_info {
        nr_map_ids: MAX_MAPS as u32,
        map_ids: ids.as_mut_ptr() as u64,
        ..Default::default()
    };
    let mut len = size_of_val(&info) as u32;
    // SAFETY: `info`, and `ids` that it points to, outlive the call, and their lengths are given.
    let rc = unsafe {
        libbpf_sys::bpf_prog_get_info_by_fd(program.as_raw_fd(), &raw mut info, &raw mut len)
    };
    ensure!(rc == 0, "cannot query the program: error {}", -rc);
    ids.truncate(info.nr_map_ids as usize);
    Ok(ids)
}

/// Writes new initial values of variables into the ELF file.
fn set_globals(elf: &mut [u8], globals: &BTreeMap<String, u64>) -> Result<()> {
    for (name, value) in globals {
        let range = {
            let file = object::File::parse(&*elf)?;
            let mut symbols = file.symbols();
            let symbol = symbols
                .find(|symbol| symbol.name() == Ok(name))
                .with_context(|| format!("no variable `{name}`"))?;
            let section = symbol
                .section_index()
                .with_context(|| format!("`{name}` is not defined here"))?;
            let section = file.section_by_index(section)?;
            let (start, _) = section
                .file_range()
                .with_context(|| format!("`{name}` is in .bss, which the file does not hold"))?;
            let start = usize::try_from(start + symbol.address())?;
            start..start + usize::try_from(symbol.size())?
        };
        let target = elf.get_mut(range).context("symbol beyond the file")?;
        let value = value.to_le_bytes();
        let (value, rest) = value.split_at(value.len().min(target.len()));
        ensure!(
            rest.iter().all(|&octet| octet == 0),
            "the value of `{name}` does not fit into {} octets",
            target.len()
        );
        target[..value.len()].copy_from_slice(value);
    }
    Ok(())
}

fn with_libbpf(
    elf: &[u8],
    name: &str,
    kind: Kind,
    entries: &BTreeMap<String, u32>,
) -> Result<OwnedFd> {
    let mut open = ObjectBuilder::default().open_memory(elf)?;
    let mut entries = entries.clone();
    for mut map in open.maps_mut() {
        if let Some(entries) = entries.remove(&*map.name().to_string_lossy()) {
            map.set_max_entries(entries)?;
        }
        // SAFETY: the map is open and not loaded; a null path means that it is not pinned.
        unsafe { libbpf_sys::bpf_map__set_pin_path(map.as_libbpf_object().as_ptr(), ptr::null()) };
    }
    if let Some(name) = entries.keys().next() {
        bail!("no map `{name}`");
    }
    for mut program in open.progs_mut() {
        let wanted = program.name() == name;
        program.set_autoload(wanted);
        if wanted {
            program.set_prog_type(match kind {
                Kind::Tc => ProgramType::SchedCls,
                Kind::Xdp | Kind::XdpFrags => ProgramType::Xdp,
            });
        }
    }
    let object = open.load().context("not loaded")?;
    let program = object
        .progs()
        .find(|program| program.name() == name)
        .context("no such program")?;
    Ok(program.as_fd().try_clone_to_owned()?)
}

fn with_aya(
    elf: &[u8],
    name: &str,
    kind: Kind,
    entries: &BTreeMap<String, u32>,
) -> Result<OwnedFd> {
    let mut loader = EbpfLoader::new();
    loader.allow_unsupported_maps();
    for (name, &entries) in entries {
        loader.map_max_entries(name, entries);
    }
    let mut ebpf = loader.load(elf)?;
    let program = ebpf.program_mut(name).context("no such program")?;
    let fd = if kind == Kind::Tc {
        let program: &mut SchedClassifier = program.try_into()?;
        program.load()?;
        program.fd()?.try_clone()?
    } else {
        let program: &mut Xdp = program.try_into()?;
        program.load()?;
        program.fd()?.try_clone()?
    };
    Ok(fd.as_fd().try_clone_to_owned()?)
}
