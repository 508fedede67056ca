//! The directory of `--out`. Files are written under other names first, so that there is never half
//! a report, and that of another time stays until there is a whole one to take its place.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use super::{ExperimentError, Report, csv, html, plots};

/// A directory that can be written to.
#[derive(Debug)]
pub(super) struct Out {
    directory: PathBuf,
}

impl Out {
    /// Makes the directory, and tries to write to it.
    pub(super) fn new(directory: &Path) -> Result<Self, ExperimentError> {
        let out = Self {
            directory: directory.to_owned(),
        };
        let (probe, _) = out.names("probe");
        fs::create_dir_all(directory)
            .and_then(|()| File::create(&probe))
            .and_then(|_| fs::remove_file(&probe))
            .map_err(|cause| ExperimentError::Out {
                path: directory.to_owned(),
                cause,
            })?;
        Ok(out)
    }

    /// A file's name for as long as not all are written, and its own.
    fn names(&self, name: &str) -> (PathBuf, PathBuf) {
        let hidden = format!(".{name}.{}", std::process::id());
        (self.directory.join(hidden), self.directory.join(name))
    }

    /// Writes all files of the report.
    pub(super) fn write(&self, report: &Report) -> Result<(), ExperimentError> {
        let index = self.directory.join("index.html");
        let files = files(report).map_err(|cause| ExperimentError::Write {
            path: self.directory.join("results.json"),
            cause: cause.into(),
        })?;
        let result = self.put(&files);
        if result.is_err() {
            for (name, _) in &files {
                // Those that have been renamed or were never written are not there.
                let _ = fs::remove_file(self.names(name).0);
            }
        }
        result?;
        tracing::info!("the report is {}", index.display());
        Ok(())
    }

    fn put(&self, files: &[(String, String)]) -> Result<(), ExperimentError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            |cause: io::Error| ExperimentError::Write { path, cause }
        };
        for (name, text) in files {
            let (hidden, path) = self.names(name);
            fs::write(&hidden, text).map_err(failed(&path))?;
        }
        for (name, _) in files {
            let (hidden, path) = self.names(name);
            fs::rename(&hidden, &path).map_err(failed(&path))?;
        }
        Ok(())
    }
}

/// All files of a report, by name.
fn files(report: &Report) -> serde_json::Result<Vec<(String, String)>> {
    let plots = plots::plots(report);
    let mut json = serde_json::to_string_pretty(report)?;
    json.push('\n');
    let mut files = vec![
        ("results.json".to_owned(), json),
        ("results.csv".to_owned(), csv::results(report)),
        ("cost.csv".to_owned(), csv::cost(report)),
        ("runs.csv".to_owned(), csv::runs(report)),
        ("index.html".to_owned(), html::page(report, &plots)),
    ];
    let plots = plots.iter();
    files.extend(plots.map(|plot| (format!("{}.svg", plot.id), plot.file())));
    Ok(files)
}
