//! Guest kernels: fetched from Debian once, and kept for all clones.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    cache, interrupt,
    workspace::{self, output},
};

/// Where Debian's packages come from on a machine whose apt does not say.
const MIRROR: &str = "http://deb.debian.org/debian";
/// What apt trusts Debian by; in the package debian-archive-keyring.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A kernel of Debian.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernel {
    /// The series, for example `6.12`. Of several in the suite the newest is taken.
    pub(crate) series: &'static str,
    /// The suite that has it.
    pub(crate) suite: &'static str,
}

/// A kernel on this machine.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    /// The kernel itself.
    pub(crate) image: PathBuf,
    /// Where its `lib/modules` is.
    pub(crate) base: PathBuf,
    /// Its release, for example `6.12.95+deb12-amd64`.
    release: String,
}

impl Kernel {
    /// Fetches it, unless that has been done.
    pub(crate) fn fetch(&self) -> Result<Files> {
        let kept = self.directory();
        if !kept.is_dir() {
            let part = kept.with_file_name(format!("{}.part", self.series));
            let _ = fs::remove_dir_all(&part);
            fs::create_dir_all(&part)?;
            self.fetch_to(&part).with_context(|| {
                format!("cannot get kernel {} of Debian {}", self.series, self.suite)
            })?;
            fs::rename(&part, &kept)?;
        }
        files(&kept)
    }

    /// Whether traffic control has links there (TCX, since 6.6).
    pub(crate) fn has_tcx(&self) -> bool {
        let mut numbers = self.series.split('.').map(str::parse::<u32>);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= (6, 6),
            _ => false,
        }
    }

    /// Where it is kept.
    pub(crate) fn directory(&self) -> PathBuf {
        cache::directory().join("kernels").join(self.series)
    }

    fn fetch_to(&self, part: &Path) -> Result<()> {
        let apt = Apt::new(self.suite)?;
        let release = apt.newest_release(self.series)?;
        eprintln!("fetching Linux {release} of Debian {}", self.suite);
        let root = part.join("unpacked");
        for package in apt.packages(&release)? {
            interrupt::check()?;
            let mut unpack = Command::new("dpkg-deb");
            unpack.arg("-x").arg(apt.download(&package, part)?);
            workspace::run(unpack.arg(&root))?;
        }
        // Some releases of Debian have /lib, others /usr/lib.
        let usr = root.join("usr");
        let base = [&root, &usr]
            .into_iter()
            .find(|base| base.join("lib/modules").join(&release).is_dir())
            .with_context(|| format!("no modules of {release} in its packages"))?;
        let module_directory = base.join("lib/modules").join(&release);
        let images = [
            root.join(format!("boot/vmlinuz-{release}")),
            module_directory.join("vmlinuz"),
        ];
        let image = images.iter().find(|image| image.is_file());
        let image = image.with_context(|| format!("no image of {release} in its packages"))?;
        fs::copy(image, part.join("vmlinuz"))?;
        let mut depmod = Command::new("depmod");
        workspace::run(depmod.arg("-b").arg(base).arg(&release))?;
        fs::create_dir_all(part.join("lib"))?;
        fs::rename(base.join("lib/modules"), part.join("lib/modules"))?;
        fs::remove_dir_all(&root)?;
        for package in packages_in(part)? {
            fs::remove_file(package)?;
        }
        Ok(())
    }
}

fn files(kept: &Path) -> Result<Files> {
    let mut releases = fs::read_dir(kept.join("lib/modules"))?;
    let release = releases.next().context("a kernel without modules")??;
    Ok(Files {
        image: kept.join("vmlinuz"),
        base: kept.to_owned(),
        release: release.file_name().to_string_lossy().into_owned(),
    })
}

fn packages_in(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    let paths: Result<Vec<PathBuf>, _> = entries.map(|entry| Ok(entry?.path())).collect();
    let mut paths = paths.map_err(|error: std::io::Error| error)?;
    paths.retain(|path| path.extension().is_some_and(|found| found == "deb"));
    Ok(paths)
}

impl Files {
    /// Copies these drivers and what they need into a directory, under names whose order is that in
    /// which they go in; those built in are left out.
    pub(crate) fn copy_modules(&self, drivers: &[&str], to: &Path) -> Result<()> {
        for (number, module) in self.needed_modules(drivers)?.iter().enumerate() {
            let name = module.file_stem().context("a module without a name")?;
            let name = name.to_string_lossy();
            let name = name.trim_end_matches(".ko");
            fs::write(to.join(format!("{number:02}-{name}.ko")), plain(module)?)?;
        }
        Ok(())
    }

    fn needed_modules(&self, drivers: &[&str]) -> Result<Vec<PathBuf>> {
        let mut modules = Vec::new();
        for driver in drivers {
            let mut modprobe = Command::new("modprobe");
            modprobe.arg("--dirname").arg(&self.base);
            modprobe.args(["--set-version", &self.release, "--show-depends", driver]);
            for line in output(&mut modprobe)?.lines() {
                if let Some(path) = line.strip_prefix("insmod ") {
                    let path = PathBuf::from(path.trim());
                    if !modules.contains(&path) {
                        modules.push(path);
                    }
                }
            }
        }
        Ok(modules)
    }
}

/// A module as insmod of any kernel takes it.
fn plain(module: &Path) -> Result<Vec<u8>> {
    if module
        .extension()
        .is_some_and(|extension| extension == "xz")
    {
        let unpacked = Command::new("xz").arg("-dc").arg(module).output()?;
        ensure!(
            unpacked.status.success(),
            "cannot unpack {}",
            module.display()
        );
        return Ok(unpacked.stdout);
    }
    Ok(fs::read(module)?)
}

/// An apt with lists of its own, which leaves the machine's alone.
struct Apt {
    config: PathBuf,
    suite: &'static str,
    /// All packages of kernels.
    names: Vec<String>,
}

impl Apt {
    fn new(suite: &'static str) -> Result<Self> {
        let home = cache::directory().join("apt").join(suite);
        for directory in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(home.join(directory))?;
        }
        let shown = home.display();
        let config = home.join("apt.conf");
        fs::write(
            &config,
            format!(
                "Dir::Etc::sourcelist \"{shown}/sources.list\";\n\
                 Dir::Etc::sourceparts \"-\";\n\
                 Dir::State::lists \"{shown}/lists\";\n\
                 Dir::State::status \"/dev/null\";\n\
                 Dir::Cache \"{shown}/cache\";\n\
                 APT::Sandbox::User \"root\";\n"
            ),
        )?;
        // One list only, whatever else this machine's apt fetches.
        let options = format!("signed-by={KEYRING} target=Packages");
        let source = format!("deb [{options}] {} {suite} main\n", mirror());
        fs::write(home.join("sources.list"), source)?;
        let mut apt = Self {
            config,
            suite,
            names: Vec::new(),
        };
        workspace::run(apt.command("apt-get").args(["update", "-qq"]))?;
        let names = output(apt.command("apt-cache").args(["pkgnames", "linux-"]))?;
        apt.names = names.lines().map(str::to_owned).collect();
        Ok(apt)
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        command.env("APT_CONFIG", &self.config);
        command
    }

    /// The newest release of a series, for example `6.12.95+deb12-amd64`.
    fn newest_release(&self, series: &str) -> Result<String> {
        let releases = self.names.iter().filter_map(|name| {
            let release = name.strip_prefix("linux-image-")?;
            let version = release.strip_suffix("-amd64")?;
            is_of(version, series).then_some((numbers(version), release))
        });
        let newest = releases.max().with_context(|| {
            format!(
                "Debian {} has no kernel {series} any more: name another in xtask/src/vm.rs",
                self.suite
            )
        })?;
        Ok(newest.1.to_owned())
    }

    /// The packages that a release is made of.
    fn packages(&self, release: &str) -> Result<Vec<String>> {
        let parts = ["base", "image", "binary", "modules"];
        let names = parts.map(|part| format!("linux-{part}-{release}"));
        let known = names.into_iter().filter(|name| self.names.contains(name));
        Ok(known.collect())
    }

    /// Downloads a package into `to` and returns its path.
    fn download(&self, package: &str, to: &Path) -> Result<PathBuf> {
        let before = packages_in(to)?;
        let mut get = self.command("apt-get");
        get.args(["download", "-qq", package]).current_dir(to);
        workspace::run(&mut get)?;
        let new = packages_in(to)?.into_iter();
        let mut new = new.filter(|path| !before.contains(path));
        new.next()
            .with_context(|| format!("apt-get has not downloaded {package}"))
    }
}

/// Whether a version, `6.12.95+deb12` or `6.1.0-50`, is an ordinary kernel of the series: those
/// for clouds and PREEMPT_RT have a word more.
fn is_of(version: &str, series: &str) -> bool {
    let mut parts = version.split('-');
    let rest = parts.next().and_then(|first| first.strip_prefix(series));
    rest.is_some_and(|rest| rest.starts_with('.'))
        && parts.all(|part| part.bytes().all(|c| c.is_ascii_digit()))
}

fn numbers(version: &str) -> Vec<u64> {
    let parts = version.split(|c: char| !c.is_ascii_digit());
    parts.filter_map(|part| part.parse().ok()).collect()
}

/// Where this machine gets Debian from.
fn mirror() -> String {
    let mut apt = Command::new("apt-get");
    apt.args(["indextargets", "--format", "$(REPO_URI)"]);
    apt.arg("Created-By: Packages");
    let targets = output(&mut apt).unwrap_or_default();
    let mut uris = targets.lines().map(|uri| uri.trim_end_matches('/'));
    let debian = uris.find(|uri| uri.starts_with("http") && uri.ends_with("/debian"));
    debian.unwrap_or(MIRROR).to_owned()
}

#[cfg(test)]
mod tests {
    use super::{is_of, numbers};

    #[test]
    fn ordinary_kernels_of_the_series_only() {
        assert!(is_of("6.12.95+deb12", "6.12"));
        assert!(is_of("6.1.0-50", "6.1"));
        assert!(!is_of("6.12.95+deb12", "6.1"));
        assert!(!is_of("6.1.0-50-cloud", "6.1"));
        assert!(!is_of("6.12.95+deb12-rt", "6.12"));
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(numbers("6.12.100+deb12") > numbers("6.12.95+deb12"));
        assert!(numbers("6.12.90+deb12.1") > numbers("6.12.90+deb12"));
        assert!(numbers("6.1.0-50") > numbers("6.1.0-47"));
    }
}
