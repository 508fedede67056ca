//! The flowprobe command.

use std::{
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::error::ErrorKind;
use flowprobe::{
    cli::{self, Command, ConfigCommand, pcap_settings, run_settings},
    config::{self, CommandLine, CommandLineError, Origin},
    experiment::{self, ExperimentError},
    export::{
        self,
        replay::{self, ReplayError},
    },
    pcap::{self, PcapError},
    run::{self, RunError},
};

/// Exit code for bad input and for machines that cannot do it: nothing was attached.
const BAD_INPUT: u8 = 2;
/// Exit code for what went wrong later.
const FAILED: u8 = 1;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    let done = match config::command_line(&arguments) {
        Ok(CommandLine { cli, origin }) => meter(cli.command, &origin),
        Err(error) => Err(error.into()),
    };
    let Err(error) = done else {
        return ExitCode::SUCCESS;
    };
    match error.downcast_ref() {
        // --help and --version. Without any argument: all of the help, but no success.
        Some(CommandLineError::Options(error)) if asks_for_help(error) => error.exit(),
        Some(CommandLineError::Options(error)) => eprintln!("flowprobe: {}", one_line(error)),
        // They begin with file, line and column, as editors read them.
        Some(CommandLineError::File(errors)) => eprintln!("{errors}"),
        _ => eprintln!("flowprobe: {error:#}"),
    }
    ExitCode::from(match bad_input(&error) {
        true => BAD_INPUT,
        false => FAILED,
    })
}

fn asks_for_help(error: &clap::Error) -> bool {
    !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
}

/// Whether nothing had been metered yet.
fn bad_input(error: &anyhow::Error) -> bool {
    let run = error.downcast_ref().map(RunError::before_start);
    let pcap = error.downcast_ref().map(PcapError::before_start);
    let experiment = error.downcast_ref().map(ExperimentError::before_start);
    let replay = error.downcast_ref().map(ReplayError::before_start);
    let settings = error.downcast_ref::<CommandLineError>().map(|_| true);
    let known = run.or(pcap).or(experiment).or(replay).or(settings);
    known.unwrap_or(false)
}

/// What is wrong with the command line, without usage and hints.
fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let words: Vec<_> = text
        .lines()
        .take_while(|line| !line.is_empty())
        .flat_map(str::split_whitespace)
        .collect();
    let line = words.join(" ");
    let problem = line.strip_prefix("error: ").unwrap_or(&line);
    // Clap does not say which command it was about.
    let named =
        |name: &String| ["pcap", "experiment", "replay", "ctl", "config"].contains(&name.as_str());
    let command = std::env::args().nth(1).filter(named);
    let command = command.as_deref().unwrap_or("run");
    format!("{problem}; see `flowprobe {command} --help`")
}

fn meter(command: Command, origin: &Origin) -> anyhow::Result<()> {
    start_log(match &command {
        Command::Run(options) => options.report.log.into(),
        Command::Pcap(options) => options.report.log.into(),
        Command::Experiment(options) => options.log.into(),
        Command::Replay(options) => options.log.into(),
        Command::Ctl(options) => {
            return print(&cli::ctl(options)?).context("cannot print the answer");
        }
        Command::Config(options) => {
            let text = configure(&options.command)?;
            return print(&text).context("cannot print the settings");
        }
    })?;
    if let Some(idle) = origin.idle() {
        tracing::warn!("{idle}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    match command {
        Command::Run(options) => {
            let settings = run_settings(*options).map_err(|refusal| origin.blame(refusal))?;
            warn_of_idle_templates(origin, &settings.export);
            drop(runtime.block_on(run::run(settings))?);
        }
        Command::Pcap(options) => {
            let settings = pcap_settings(*options).map_err(|refusal| origin.blame(refusal))?;
            warn_of_idle_templates(origin, &settings.export);
            drop(runtime.block_on(pcap::pcap(settings))?);
        }
        Command::Experiment(options) => {
            drop(runtime.block_on(experiment::experiment((*options).into()))?);
        }
        Command::Replay(options) => drop(runtime.block_on(replay::replay(options.into()))?),
        Command::Ctl(_) | Command::Config(_) => {}
    }
    Ok(())
}

fn warn_of_idle_templates(origin: &Origin, settings: &export::Settings) {
    for idle in origin.idle_templates(settings) {
        tracing::warn!("{idle}");
    }
}

/// Answers what is asked of settings.
fn configure(command: &ConfigCommand) -> Result<String, CommandLineError> {
    match command {
        ConfigCommand::Check { file } => {
            for idle in config::check(file)? {
                eprintln!("{idle}");
            }
            Ok(format!("{} is right\n", file.display()))
        }
        ConfigCommand::Default => Ok(config::default()),
        ConfigCommand::Show { options } => config::show(options),
    }
}

/// Prints all of it, or as much as the reader wants (`| head`).
fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed,
    }
}

fn start_log(level: tracing::Level) -> anyhow::Result<()> {
    // The loader's own log is hundreds of lines about relocations.
    let loader = ["aya", "aya_obj"];
    tracing_log::LogTracer::builder()
        .ignore_all(loader)
        .init()
        .context("cannot bridge the log of libraries")?;
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(pcap::progress::stderr)
        .finish();
    tracing::subscriber::set_global_default(subscriber).context("cannot start the log")
}
