//! `setup`: what the tests need, installed where that is possible and named where it is not.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::{
    captures, ebpf,
    workspace::{self, find, output},
};

/// The eBPF toolchain, see [`crate::ebpf`], and what builds bpf-linker.
const BUILD: &[&str] = &[
    "rustc-web",
    "libstd-rust-web-dev-bpf",
    "rust-web-llvm",
    "llvm-22-dev",
    "libpolly-22-dev",
    "zlib1g-dev",
    "libzstd-dev",
];

/// What the tests, guests and benchmarks run, and what flowprobe and libbpf are built with.
const RUN: &[&str] = &[
    "iproute2",
    "ethtool",
    "nfdump",
    "softflowd",
    "pmacct",
    "libfixbuf-tools",
    "python3-ipfix",
    "openssl",
    "tshark",
    "chromium",
    "libelf-dev",
    "libssl-dev",
    "pkg-config",
    "build-essential",
    "qemu-system-x86",
    "seabios",
    "busybox-static",
    "cpio",
    "kmod",
    "xz-utils",
    "zstd",
];

const LINKER: &[&str] = &[
    "install",
    "--locked",
    "bpf-linker@0.13.0",
    "--no-default-features",
    "--features",
    "llvm-22",
];

const NEXTEST: &[&str] = &["install", "--locked", "cargo-nextest"];

const FUZZ: &[&str] = &["install", "--locked", "cargo-fuzz@0.13.2"];

/// Where Debian installs LLVM 22.
const LLVM: &str = "/usr/lib/llvm-22";

pub(crate) fn run() -> Result<()> {
    let packages = if ebpf::toolchain_is_complete() {
        missing(RUN)
    } else {
        missing(&[BUILD, RUN].concat())
    };
    if !packages.is_empty() {
        install_packages(&packages)?;
    }
    if find("bpf-linker").is_none() {
        println!("installing bpf-linker with cargo");
        let mut cargo = workspace::cargo();
        cargo.args(LINKER).env("LLVM_PREFIX", LLVM);
        let path = workspace::prepend(&cargo, &[PathBuf::from(LLVM).join("bin")]);
        workspace::run(cargo.env("PATH", path))?;
    }
    if find("cargo-nextest").is_none() {
        println!("installing cargo-nextest with cargo");
        workspace::run(workspace::cargo().args(NEXTEST))?;
    }
    if find("cargo-fuzz").is_none() {
        println!("installing cargo-fuzz with cargo");
        workspace::run(workspace::cargo().args(FUZZ))?;
    }
    captures::fetch().context("cannot fetch captures")?;
    println!("everything that the tests need is installed");
    Ok(())
}

/// Those of `packages` that dpkg does not report as installed. All of them without dpkg.
fn missing(packages: &[&'static str]) -> Vec<&'static str> {
    let installed = |package: &&str| {
        Command::new("dpkg-query")
            .args(["--show", "--showformat", "${db:Status-Status}", package])
            .output()
            .is_ok_and(|query| query.stdout == b"installed")
    };
    packages
        .iter()
        .copied()
        .filter(|package| !installed(package))
        .collect()
}

fn install_packages(packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    if find("apt-get").is_none() {
        bail!("the tests need what Debian calls {list}; there is no apt-get here to install it");
    }
    if output(Command::new("id").arg("-u"))? != "0" {
        bail!("the tests need packages that only root can install: apt-get install {list}");
    }
    println!("installing {list}");
    let apt = |arguments: &[&str]| {
        // tshark asks whether all users may capture.
        let mut apt = Command::new("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive").args(arguments);
        workspace::run(&mut apt)
    };
    apt(&["update", "--quiet"])?;
    let install = ["install", "--yes", "--quiet", "--no-install-recommends"];
    apt(&[&install, packages].concat()).with_context(|| format!("cannot install {list}"))
}
