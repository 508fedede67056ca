//! The toolchain for BPF: Debian's, which ships `core` for the target, or a nightly of rustup.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::workspace::{self, find, output, root};

/// The target triple.
pub(super) const TARGET: &str = "bpfel-unknown-none";

const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// What is missing, as one can type it.
const MISSING: &str = "the eBPF toolchain is not complete: {}.\n\
    On Debian, as root:\n  \
      apt-get install -y --no-install-recommends rustc-web libstd-rust-web-dev-bpf rust-web-llvm \
    llvm-22-dev libpolly-22-dev zlib1g-dev libzstd-dev\n  \
      LLVM_PREFIX=/usr/lib/llvm-22 PATH=/usr/lib/llvm-22/bin:$PATH cargo install bpf-linker@0.13.0 \
    --no-default-features --features llvm-22\n\
    Elsewhere:\n  \
      rustup toolchain install nightly --component rust-src\n  \
      cargo install bpf-linker\n  \
    and llvm-strip from the packages of LLVM";

enum Compiler {
    /// rustc with a `core` built for BPF.
    Debian,
    /// A nightly that builds `core` from its sources.
    Nightly,
}

/// Commands that build the object.
pub(super) struct Toolchain {
    compiler: Compiler,
    linker: PathBuf,
    strip: PathBuf,
}

impl Toolchain {
    /// Finds one, or says how to get it.
    pub(super) fn find() -> Result<Self> {
        let Some(compiler) = compiler() else {
            bail!(MISSING.replace("{}", "no rustc that can build for BPF"));
        };
        let Some(linker) = find("bpf-linker") else {
            bail!(MISSING.replace("{}", "no bpf-linker"));
        };
        let debian = Some(PathBuf::from("/usr/lib/llvm-22/bin/llvm-strip"));
        let strip = debian
            .filter(|file| file.is_file())
            .or_else(|| find("llvm-strip"));
        let Some(strip) = strip else {
            bail!(MISSING.replace("{}", "no llvm-strip"));
        };
        Ok(Self {
            compiler,
            linker,
            strip,
        })
    }

    /// A cargo that compiles with it.
    pub(super) fn cargo(&self) -> Command {
        let mut cargo;
        match self.compiler {
            Compiler::Debian => {
                cargo = workspace::cargo();
                // `core` is used through features that only nightly has by default.
                cargo.env("RUSTC_BOOTSTRAP", "1").env("RUSTC", DEBIAN_RUSTC);
            }
            Compiler::Nightly => {
                cargo = nightly("cargo");
                cargo.current_dir(root()).arg("-Zbuild-std=core");
            }
        }
        cargo.env("CARGO_ENCODED_RUSTFLAGS", self.flags().join("\x1f"));
        cargo
    }

    /// Flags of rustc, for BPF only.
    fn flags(&self) -> Vec<String> {
        let mut flags: Vec<String> = [
            "-Cdebuginfo=2", // BTF is made of it
            "-Ctarget-cpu=v3",
            "-Ctarget-feature=+allows-misaligned-mem-access",
            "-Clink-arg=--btf",
            "--cfg=bpf_target_arch=\"x86_64\"",
            "-Dwarnings",
        ]
        .map(String::from)
        .into();
        flags.push(format!("-Clinker={}", self.linker.display()));
        // The later of two prefixes that match wins.
        let mut remap = |from: &Path, to: &str| {
            flags.push(format!("--remap-path-prefix={}={to}", from.display()));
        };
        remap(&workspace::cargo_home(), "cargo");
        for index in registries() {
            remap(&index, "registry");
        }
        remap(root(), ".");
        flags
    }

    /// Removes what only a debugger reads; BTF stays.
    pub(super) fn strip(&self, from: &Path, to: &Path) -> Result<()> {
        let mut strip = Command::new(&self.strip);
        workspace::run(strip.arg("--strip-debug").arg(from).arg("-o").arg(to))
    }

    /// Versions of all that the object depends on, on one line.
    pub(super) fn versions(&self) -> Result<String> {
        let mut rustc = match self.compiler {
            Compiler::Debian => Command::new(DEBIAN_RUSTC),
            Compiler::Nightly => nightly("rustc"),
        };
        let rustc = output(rustc.arg("--version"))?;
        let linker = output(Command::new(&self.linker).arg("--version"))?;
        let strip = output(Command::new(&self.strip).arg("--version"))?;
        let llvm = strip
            .lines()
            .find_map(|line| line.split_once("version ").map(|(_, version)| version))
            .context("llvm-strip names no version")?;
        Ok(format!("{rustc}, {linker}, llvm-strip {llvm}"))
    }
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.compiler {
            Compiler::Debian => write!(f, "Debian's rustc ({DEBIAN_RUSTC})"),
            Compiler::Nightly => write!(f, "rustup's nightly, core from rust-src"),
        }
    }
}

fn compiler() -> Option<Compiler> {
    let sysroot = |command: &mut Command| output(command.args(["--print", "sysroot"])).ok();
    let has = |sysroot: String, path: &str| Path::new(&sysroot).join(path).exists();
    if Path::new(DEBIAN_RUSTC).is_file()
        && let Some(sysroot) = sysroot(&mut Command::new(DEBIAN_RUSTC))
        && has(sysroot, &format!("lib/rustlib/{TARGET}/lib"))
    {
        return Some(Compiler::Debian);
    }
    find("rustup")?;
    let mut rustc = nightly("rustc");
    rustc.stderr(std::process::Stdio::null());
    let sysroot = sysroot(&mut rustc)?;
    has(sysroot, "lib/rustlib/src/rust/library/core").then_some(Compiler::Nightly)
}

/// A command of the nightly toolchain, whatever toolchain runs this program.
fn nightly(name: &str) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", name]);
    for name in ["RUSTC", "CARGO", "RUSTUP_TOOLCHAIN"] {
        command.env_remove(name);
    }
    command
}

/// Directories of downloaded crates, one for each registry.
fn registries() -> Vec<PathBuf> {
    let sources = workspace::cargo_home().join("registry/src");
    fs::read_dir(sources)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect()
}
