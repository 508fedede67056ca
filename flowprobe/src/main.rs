//! The flowprobe command.

use std::{io::IsTerminal as _, process::ExitCode};

use anyhow::Context as _;
use clap::Parser as _;
use flowprobe::{
    cli::{Cli, Command, Run},
    export::{self, Output},
    run::{self, RunError, Settings},
    table::Timeouts,
};

/// Exit code for bad input, as clap has it.
const BAD_INPUT: u8 = 2;

fn main() -> ExitCode {
    let Command::Run(options) = Cli::parse().command;
    match meter(*options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("flowprobe: {error:#}");
            match error.downcast_ref::<RunError>() {
                Some(error) if !error.before_start() => ExitCode::FAILURE,
                _ => ExitCode::from(BAD_INPUT),
            }
        }
    }
}

fn meter(options: Run) -> anyhow::Result<()> {
    tracing_log::LogTracer::init().context("cannot bridge the log of libraries")?;
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::from(options.log))
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
            output,
        },
        summary: options.summary,
        duration: options.duration,
        object: options.object,
    }
}
