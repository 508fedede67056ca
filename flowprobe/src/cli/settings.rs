//! Where options become settings, and those that do not go together are refused.

use std::{io::IsTerminal as _, sync::Arc};

use super::{Export, Pcap, Run, RunMode, VlanElements};
use crate::{
    adaptive::Budget,
    attach::{Hook, Pattern, XdpMode},
    bypass::Poll,
    export::{
        self, Collector, CollectorError, Content, Domain, Format, NamedTemplate, NoTemplate,
        Output, SpoolSettings, TemplateName, template::chosen,
    },
    ipfix::Fields,
    ipfix_file::Rotation,
    pcap,
    run::{self, BypassSettings, ControlSocket, Mode, RunError},
    sampling::{self, ClassesError, Profile, Rate, Rated, Sampling},
    xsk,
};

/// Options that do not go together.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// Rates.
    #[error(transparent)]
    Classes(#[from] ClassesError),
    /// Selection by hash, without its key.
    #[error(
        "--sample hash: selects the same packets on all sensors that have the same key: give one \
         with --sample-key"
    )]
    NoKey,
    /// A certificate without its key, or a key without its certificate.
    #[error("{given} alone shows nobody who this is: give {missing} too")]
    HalfIdentity {
        /// What is there.
        given: &'static str,
        /// What is not.
        missing: &'static str,
    },
    /// A field that flows have not.
    #[error("only biflows have {0}: give --biflow too, or leave it out")]
    OfBiflows(&'static str),
    /// A field that only routes tell.
    #[error("only routes tell {0}: give --next-hop of `flowprobe run` too, or leave it out")]
    OfRoutes(&'static str),
    /// What goes to a collector, and how.
    #[error("collector {collector}: {why}")]
    Collector {
        /// Which.
        collector: String,
        /// Why.
        why: CollectorError,
    },
    /// A template that is not there.
    #[error("collector {collector}: {why}")]
    NoTemplate {
        /// The option that names the collector.
        option: &'static str,
        /// Which of its values.
        value: usize,
        /// The collector.
        collector: String,
        /// Why.
        why: NoTemplate,
    },
    /// It would not be clear which one a collector asks for.
    #[error("template {name} is there twice: give each a name of its own")]
    SameTemplate {
        /// What both are called.
        name: TemplateName,
        /// Which value of the option is the later one.
        value: usize,
    },
    /// A field that flows have not, in a template.
    #[error("template {name}: only biflows have {field}: give --biflow too, or leave it out")]
    TemplateOfBiflows {
        /// The template.
        name: TemplateName,
        /// The field.
        field: &'static str,
        /// Which value of the option it is.
        value: usize,
    },
    /// A field that only routes tell, in a template.
    #[error(
        "template {name}: only routes tell {field}: give --next-hop of `flowprobe run` too, or \
         leave it out"
    )]
    TemplateOfRoutes {
        /// The template.
        name: TemplateName,
        /// The field.
        field: &'static str,
        /// Which value of the option it is.
        value: usize,
    },
    /// What `run` would find out when it has looked at the machine.
    #[error(transparent)]
    Run(#[from] RunError),
}

impl SettingsError {
    /// The option to change.
    #[must_use]
    pub fn option(&self) -> &'static str {
        match self {
            Self::Run(RunError::Twice(_)) => "interface",
            Self::Run(RunError::Domains(_)) => "observation-domain",
            Self::Run(RunError::ShadowOfSample) => "shadow",
            Self::Run(RunError::ModeOfTc) => "xdp-mode",
            Self::Run(RunError::ClsactOfXdp) => "clsact",
            Self::Run(RunError::DedupOfIngress) => "dedup",
            Self::Run(RunError::NotInUserspace { option, .. }) => {
                let name = option.split(' ').next().unwrap_or(option);
                name.trim_start_matches('-')
            }
            Self::Run(RunError::OnlyInUserspace(option)) => option,
            Self::Run(RunError::TooManyFlows(_)) => "max-flows",
            Self::Run(RunError::Queue(_)) => "ring",
            Self::Collector { .. } => "format",
            Self::OfBiflows(_) | Self::OfRoutes(_) => "fields",
            Self::HalfIdentity { given, .. } => given.trim_start_matches('-'),
            Self::NoTemplate { option, .. } => option,
            Self::SameTemplate { .. }
            | Self::TemplateOfBiflows { .. }
            | Self::TemplateOfRoutes { .. } => "template",
            Self::Classes(_) | Self::NoKey | Self::Run(_) => "sample",
        }
    }

    /// Which of its values, where it may be given several times and one of them is wrong.
    #[must_use]
    pub fn value(&self) -> Option<usize> {
        match self {
            Self::NoTemplate { value, .. }
            | Self::SameTemplate { value, .. }
            | Self::TemplateOfBiflows { value, .. }
            | Self::TemplateOfRoutes { value, .. } => Some(*value),
            _ => None,
        }
    }
}

/// What these options of `flowprobe run` mean.
///
/// # Errors
/// Some of them do not go together.
pub fn run_settings(options: Run) -> Result<run::Settings, SettingsError> {
    let classes = sampling::classes(&options.sample)?;
    let by_content = |class: &Rated| matches!(class.rate, Rate::Fixed(Sampling::Hash(_)));
    if options.sample_key.is_none() && classes.iter().any(by_content) {
        return Err(SettingsError::NoKey);
    }
    refuse(&options, &classes)?;
    let mode = mode(&options, &classes)?;
    Ok(run::Settings {
        interfaces: options.interfaces,
        netns: options.netns,
        hook: options.hook,
        xdp_mode: options.xdp_mode,
        egress: options.egress,
        clsact: options.clsact,
        dedup: options.dedup,
        promisc: options.promisc.unwrap_or(matches!(mode, Mode::AfXdp(_))),
        mode,
        classes,
        sample_key: options.sample_key,
        shadow: options.shadow,
        control: match (options.control, options.no_control) {
            (_, true) => ControlSocket::None,
            (Some(path), _) => ControlSocket::At(path),
            (None, _) => ControlSocket::Default,
        },
        tunnels: (&options.parsing).into(),
        max_flows: options.max_flows,
        max_overflow_flows: options
            .max_overflow_flows
            .unwrap_or(options.max_flows.saturating_mul(8)) as usize,
        timeouts: options.timeouts.into(),
        sweep_interval: options.sweep_interval,
        export: export_settings(
            options.export,
            options.export_queue.get() as usize,
            options.sampling_profile.into(),
            options.next_hop,
        )?,
        next_hop: options.next_hop,
        summary: options.report.summary,
        duration: options.duration,
        object: options.object,
    })
}

/// Refuses what can be seen to be wrong without a look at the machine, which `run` refuses too.
fn refuse(options: &Run, classes: &[Rated]) -> Result<(), RunError> {
    let interfaces = &options.interfaces;
    for (i, pattern) in interfaces.iter().enumerate() {
        if interfaces[..i].contains(pattern) {
            return Err(RunError::Twice(pattern.to_string()));
        }
    }
    if options.hook == Hook::Tc && options.xdp_mode != XdpMode::Auto {
        return Err(RunError::ModeOfTc);
    }
    if options.clsact && !options.egress && options.hook != Hook::Tc {
        return Err(RunError::ClsactOfXdp);
    }
    if options.dedup && !options.egress {
        return Err(RunError::DedupOfIngress);
    }
    let filters = classes.iter().filter_map(|class| class.filter.as_ref());
    for name in filters.filter_map(|filter| filter.interface.as_ref()) {
        // A file alone may leave the interfaces to the command line.
        let mut wanted = interfaces.iter();
        if !interfaces.is_empty() && !wanted.any(|pattern| pattern.matches(name)) {
            return Err(RunError::ClassInterface(name.clone()));
        }
    }
    let first = options.export.observation_domain;
    if first.checked_add(classes.len() as u32 - 1).is_none() {
        return Err(RunError::Domains(first));
    }
    let sampled = |class: &Rated| class.rate != Rate::Fixed(Sampling::All);
    if options.shadow.is_some() && (classes.len() > 1 || classes.iter().any(sampled)) {
        return Err(RunError::ShadowOfSample);
    }
    Ok(())
}

/// Where packets are metered. Refuses what the other mode has.
fn mode(options: &Run, classes: &[Rated]) -> Result<Mode, RunError> {
    let given = [
        ("take-packets", options.take_packets),
        ("poll", options.poll.is_some()),
        ("ring", options.ring.is_some()),
        ("umem", options.umem.is_some()),
        ("frame-size", options.frame_size.is_some()),
        ("zero-copy", options.zero_copy.is_some()),
    ];
    if options.mode == RunMode::Xdp {
        return match given.iter().find(|(_, given)| *given) {
            Some((option, _)) => Err(RunError::OnlyInUserspace(option)),
            None => Ok(Mode::Xdp),
        };
    }
    let by_cpu = |class: &Rated| matches!(class.rate, Rate::Auto(Budget::Cpu { .. }));
    let refused = [
        (
            "--interface with a pattern",
            !options.interfaces.iter().all(Pattern::is_plain),
            ", whose workers are there from the start",
        ),
        (
            "--hook tc",
            options.hook == Hook::Tc,
            ", which takes packets by XDP",
        ),
        ("--egress", options.egress, ", which takes what comes in"),
        ("--shadow", options.shadow.is_some(), ""),
        (
            "--max-overflow-flows",
            options.max_overflow_flows.is_some(),
            ", which has no other tables",
        ),
        (
            "--sample auto:cpu",
            classes.iter().any(by_cpu),
            ", where most of the cost is not in the kernel (auto:packets is)",
        ),
    ];
    if let Some((option, _, why)) = refused.iter().find(|(_, given, _)| *given) {
        return Err(RunError::NotInUserspace { option, why });
    }
    if options.max_flows > run::MAX_USERSPACE_FLOWS {
        return Err(RunError::TooManyFlows(options.max_flows));
    }
    let queue = xsk::Settings::default();
    let poll = options.poll.unwrap_or_default();
    let queue = xsk::Settings {
        ring: options.ring.unwrap_or(queue.ring),
        frames: options.umem,
        frame_size: options.frame_size.unwrap_or(queue.frame_size),
        zero_copy: options.zero_copy.unwrap_or_default(),
        // Interrupts stay off while the worker looks.
        busy_poll: poll == Poll::Busy,
        ..queue
    };
    queue.check().map_err(xsk::OpenError::from)?;
    Ok(Mode::AfXdp(BypassSettings {
        poll,
        queue,
        take_packets: options.take_packets,
    }))
}

/// What these options of `flowprobe pcap` mean.
///
/// # Errors
/// Some of them do not go together.
pub fn pcap_settings(options: Pcap) -> Result<pcap::Settings, SettingsError> {
    Ok(pcap::Settings {
        files: options.files,
        merge: options.merge,
        tunnels: (&options.parsing).into(),
        max_flows: options.max_flows,
        timeouts: options.timeouts.into(),
        export: export_settings(options.export, pcap::QUEUE, Profile::Default, false)?,
        summary: options.report.summary,
    })
}

/// With what is said for all of them, the first that does not go together with it refused.
fn completed(collectors: Vec<Collector>, format: Format) -> Result<Vec<Collector>, SettingsError> {
    let complete = |collector: Collector| {
        let written = collector.to_string();
        collector
            .or_format(format)
            .map_err(|why| SettingsError::Collector {
                collector: written,
                why,
            })
    };
    collectors.into_iter().map(complete).collect()
}

/// Refuses two templates of one name, and those of fields that nothing has.
fn check_templates(
    templates: &[NamedTemplate],
    biflow: bool,
    next_hop: bool,
) -> Result<(), SettingsError> {
    for (value, NamedTemplate { name, fields }) in templates.iter().enumerate() {
        let name = name.clone();
        if templates[..value].iter().any(|other| other.name == name) {
            return Err(SettingsError::SameTemplate { name, value });
        }
        if let (Some(field), false) = (fields.of_biflows(), biflow) {
            return Err(SettingsError::TemplateOfBiflows { name, field, value });
        }
        if let (Some(field), false) = (fields.of_routes(), next_hop) {
            return Err(SettingsError::TemplateOfRoutes { name, field, value });
        }
    }
    Ok(())
}

/// Refuses collectors, those of a value of `option`, that ask for a template which is not there.
fn find_templates(
    collectors: &[Collector],
    templates: &[NamedTemplate],
    (option, value): (&'static str, usize),
) -> Result<(), SettingsError> {
    for collector in collectors {
        chosen(collector, templates).map_err(|why| SettingsError::NoTemplate {
            option,
            value,
            collector: collector.to_string(),
            why,
        })?;
    }
    Ok(())
}

fn export_settings(
    options: Export,
    queue: usize,
    sampling_profile: Profile,
    next_hop: bool,
) -> Result<export::Settings, SettingsError> {
    let half = |given, missing| Err(SettingsError::HalfIdentity { given, missing });
    match (&options.tls.tls_cert, &options.tls.tls_key) {
        (Some(_), None) => half("--tls-cert", "--tls-key")?,
        (None, Some(_)) => half("--tls-key", "--tls-cert")?,
        _ => {}
    }
    let (templates, mut groups) = (options.templates, options.groups);
    let general = options.fields.as_ref().and_then(Fields::of_biflows);
    if let (Some(field), false) = (general, options.biflow) {
        return Err(SettingsError::OfBiflows(field));
    }
    if let (Some(field), false) = (
        options.fields.as_ref().and_then(Fields::of_routes),
        next_hop,
    ) {
        return Err(SettingsError::OfRoutes(field));
    }
    check_templates(&templates, options.biflow, next_hop)?;
    for (i, collector) in options.collectors.iter().enumerate() {
        find_templates(
            std::slice::from_ref(collector),
            &templates,
            ("collector", i),
        )?;
    }
    for (i, group) in groups.iter().enumerate() {
        find_templates(&group.collectors, &templates, ("group", i))?;
    }
    for group in &mut groups {
        group.collectors = completed(std::mem::take(&mut group.collectors), options.format)?;
    }
    let collectors = completed(options.collectors, options.format)?;
    if options.fields.is_some() {
        let grouped = groups.iter().flat_map(|group| &group.collectors);
        let fixed = |collector: &&Collector| collector.format() == Some(Format::V5);
        for collector in collectors.iter().chain(grouped).filter(fixed) {
            tracing::warn!(
                %collector,
                "records of NetFlow v5 are always the same: --fields changes nothing in them"
            );
        }
    }
    let output = match (options.output, std::io::stdout().is_terminal()) {
        (Some(format), _) => Some(format.into()),
        (None, _) if !collectors.is_empty() || !groups.is_empty() => None,
        (None, true) => Some(Output::Table),
        (None, false) => Some(Output::Json),
    };
    Ok(export::Settings {
        collectors,
        groups,
        identity: options.tls.into(),
        spool: options.spool.map(|directory| SpoolSettings {
            directory,
            octets: options.spool_octets,
        }),
        rotation: Rotation {
            octets: options.rotate_octets,
            every: Some(options.rotate_interval),
        },
        mtu: options.mtu,
        template_refresh: options.template_refresh,
        template_refresh_packets: options.template_refresh_packets,
        export_rate: options.export_rate,
        queue,
        domains: vec![Domain {
            id: options.observation_domain,
            name: String::new(),
            sampling: Sampling::All,
        }],
        sampling_profile,
        interfaces: Arc::default(),
        content: Content {
            dot1q: options.vlan_elements == VlanElements::Dot1q,
            // Who asks for nothing in particular gets all, with --next-hop.
            fields: options.fields.or(next_hop.then(Fields::everything)),
            templates,
            biflows: options.biflow,
        },
        output,
    })
}
