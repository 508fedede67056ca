//! The flowprobe command.

use std::{io::IsTerminal as _, process::ExitCode};

use anyhow::Context as _;
use clap::{Parser as _, error::ErrorKind};
use flowprobe::{
    cli::{Cli, Command, Run, VlanElements},
    export::{self, Output},
    run::{self, RunError, Settings},
    table::Timeouts,
};

/// Exit code for bad input and for machines that cannot do it: nothing was attached.
const BAD_INPUT: u8 = 2;
/// Exit code for what went wrong later.
const FAILED: u8 = 1;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Without any argument: all of the help, but no success.
        Err(error) if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            error.exit()
        }
        Err(error) if error.use_stderr() => {
            eprintln!("flowprobe: {}", one_line(&error));
            return ExitCode::from(BAD_INPUT);
        }
        // --help and --version.
        Err(error) => error.exit(),
    };
    let Command::Run(options) = cli.command;
    match meter(*options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => match error.downcast_ref::<RunError>() {
            Some(error) => {
                eprintln!("flowprobe: {error}");
                ExitCode::from(match error.before_start() {
                    true => BAD_INPUT,
                    false => FAILED,
                })
            }
            None => {
                eprintln!("flowprobe: {error:#}");
                ExitCode::from(FAILED)
            }
        },
    }
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
    format!("{problem}; see `flowprobe run --help`")
}

fn meter(options: Run) -> anyhow::Result<()> {
    let level = tracing::Level::from(options.log);
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
        .with_writer(std::io::stderr)
        .finish();
    tracing::subscriber::set_global_default(subscriber).context("cannot start the log")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    runtime.block_on(run::run(settings(options)))?;
    Ok(())
}

fn settings(options: Run) -> Settings {
    let output = match (options.output, std::io::stdout().is_terminal()) {
        (Some(format), _) => Some(format.into()),
        (None, _) if !options.collectors.is_empty() => None,
        (None, true) => Some(Output::Table),
        (None, false) => Some(Output::Json),
    };
    Settings {
        interfaces: options.interfaces,
        xdp_mode: options.xdp_mode,
        promisc: options.promisc,
        sampling: options.sample,
        tunnels: (&options.parsing).into(),
        max_flows: options.max_flows,
        max_overflow_flows: options
            .max_overflow_flows
            .unwrap_or(options.max_flows.saturating_mul(8)) as usize,
        timeouts: Timeouts {
            idle: options.idle_timeout,
            active: options.active_timeout,
            linger: options.tcp_linger,
        },
        sweep_interval: options.sweep_interval,
        export: export::Settings {
            collectors: options.collectors,
            mtu: options.mtu,
            template_refresh: options.template_refresh,
            export_rate: options.export_rate,
            queue: options.export_queue.get() as usize,
            observation_domain: options.observation_domain,
            sampling: options.sample,
            interfaces: Vec::new(),
            dot1q: options.vlan_elements == VlanElements::Dot1q,
            output,
        },
        summary: options.summary,
        duration: options.duration,
        object: options.object,
    }
}
