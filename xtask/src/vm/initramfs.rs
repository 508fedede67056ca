//! The root file system of a guest: busybox, the programs under test, the kernel's modules.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use super::kernel;
use crate::workspace::{self, cargo, output};

/// The first process of a guest that takes commands.
const INIT: &str = include_str!("init");
/// What it has the drivers of: its network, the channel for commands, and what machines that build
/// often lack.
const DRIVERS: &[&str] = &[
    "virtio_pci",
    "virtio_net",
    "virtio_console",
    "sctp",
    "sch_ingress",
    "cls_bpf",
];
/// Of the package busybox-static; a shell and its tools without libraries.
const BUSYBOX: &str = "/bin/busybox";
/// Where an object that is given is in a guest.
const OBJECT: &str = "/object";

/// What runs in a guest, without its debug information.
#[derive(Debug)]
pub(crate) struct Programs {
    /// On this machine, by path there.
    pub(crate) verifier: PathBuf,
    flowprobe: PathBuf,
    /// The tests in flowprobe's library.
    tests: PathBuf,
    /// An object to load instead of the committed one.
    pub(crate) object: Option<PathBuf>,
    /// The libraries that these are linked with.
    libraries: Vec<PathBuf>,
}

impl Programs {
    /// Builds them: the very flowprobe that the other tests run.
    pub(crate) fn build(object: Option<&Path>) -> Result<Self> {
        let mut build = cargo();
        build.args(["build", "--quiet", "--package", "flowprobe"]);
        workspace::run(&mut build)?;
        let mut build = cargo();
        build.args(["build", "--quiet", "--package", "flowprobe-tests"]);
        workspace::run(build.args(["--example", "verifier"]))?;
        let target = workspace::target().join("debug");
        let flowprobe = stripped(&target.join("flowprobe"))?;
        let verifier = stripped(&target.join("examples/verifier"))?;
        let tests = stripped(&tests()?)?;
        let mut libraries = libraries(&flowprobe)?;
        libraries.extend(self::libraries(&tests)?);
        libraries.extend(self::libraries(&verifier)?);
        libraries.sort();
        libraries.dedup();
        Ok(Self {
            verifier,
            flowprobe,
            tests,
            object: object.map(Path::to_owned),
            libraries,
        })
    }

    /// Where a guest finds the object to load instead of the committed one.
    pub(crate) fn object_in_guest(&self) -> Option<&'static str> {
        self.object.as_ref().map(|_| OBJECT)
    }

    /// Packs them with the modules of a kernel, into the file `to`.
    pub(crate) fn pack(&self, kernel: &kernel::Files, to: &Path) -> Result<()> {
        let root = begin(kernel, DRIVERS, INIT, to)?;
        let programs = [
            ("flowprobe", &self.flowprobe),
            ("tests", &self.tests),
            ("verifier", &self.verifier),
        ];
        for (name, program) in programs {
            fs::copy(program, root.join("bin").join(name))?;
        }
        if let Some(object) = &self.object {
            let to = root.join(OBJECT.trim_start_matches('/'));
            fs::copy(object, to).with_context(|| object.display().to_string())?;
        }
        for library in &self.libraries {
            let place = root.join(library.strip_prefix("/")?);
            fs::create_dir_all(place.parent().context("a library in no directory")?)?;
            fs::copy(library, place)?;
        }
        end(&root, to)
    }
}

/// A directory for what goes into the file `to`, with busybox, drivers, and the first process.
pub(super) fn begin(
    kernel: &kernel::Files,
    drivers: &[&str],
    init: &str,
    to: &Path,
) -> Result<PathBuf> {
    let root = to.with_extension("root");
    let _ = fs::remove_dir_all(&root);
    for directory in ["bin", "dev", "modules", "proc", "sys", "tmp"] {
        fs::create_dir_all(root.join(directory))?;
    }
    let place = root.join("init");
    fs::write(&place, init)?;
    fs::set_permissions(&place, fs::Permissions::from_mode(0o755))?;
    let busybox = root.join("bin/busybox");
    fs::copy(BUSYBOX, busybox).with_context(|| format!("{BUSYBOX} (busybox-static)"))?;
    kernel.copy_modules(drivers, &root.join("modules"))?;
    Ok(root)
}

/// Packs what [`begin`] began.
pub(super) fn end(root: &Path, to: &Path) -> Result<()> {
    archive(root, to)?;
    Ok(fs::remove_dir_all(root)?)
}

/// Builds the tests in flowprobe's library; where they are.
fn tests() -> Result<PathBuf> {
    let mut build = cargo();
    build.args(["test", "--quiet", "--package", "flowprobe", "--lib"]);
    build.args(["--no-run", "--message-format", "json"]);
    let told = output(&mut build)?;
    let mut messages = told
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let built = messages.find_map(|message| {
        let is_test = message["profile"]["test"].as_bool()?;
        let path = message["executable"].as_str()?;
        is_test.then(|| PathBuf::from(path))
    });
    built.context("cargo tells no executable of flowprobe's tests")
}

/// A copy without debug information, which is most of a program and nothing to a guest.
fn stripped(program: &Path) -> Result<PathBuf> {
    let name = program.file_name().context("a program without a name")?;
    let to = super::directory().join(name);
    fs::create_dir_all(super::directory())?;
    let mut strip = Command::new("strip");
    strip.arg("--strip-debug").arg("-o").arg(&to).arg(program);
    workspace::run(&mut strip)?;
    Ok(to)
}

/// What the dynamic linker would load, itself among them.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let listed = output(Command::new("ldd").arg(program))?;
    let words = listed.split_whitespace();
    let paths: Vec<PathBuf> = words
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect();
    ensure!(
        !paths.is_empty(),
        "ldd finds no libraries of {}",
        program.display()
    );
    Ok(paths)
}

/// The format that kernels unpack at boot.
fn archive(root: &Path, to: &Path) -> Result<()> {
    let mut cpio = Command::new("cpio")
        .args(["--create", "--format=newc", "--owner=0:0", "--quiet"])
        .current_dir(root)
        .stdin(Stdio::piped())
        .stdout(File::create(to)?)
        .spawn()
        .context("cannot run cpio")?;
    let mut names = cpio.stdin.take().context("no stdin")?;
    for path in below(root)? {
        writeln!(names, "{}", path.strip_prefix(root)?.display())?;
    }
    drop(names);
    ensure!(cpio.wait()?.success(), "cpio failed");
    Ok(())
}

/// Everything below a directory, parents first.
fn below(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        found.push(path.clone());
        if path.is_dir() {
            found.extend(below(&path)?);
        }
    }
    Ok(found)
}
