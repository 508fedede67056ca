//! The interfaces of a run: those whose names are asked for, as they come, go and are renamed.

mod past;
mod watched;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
    time::Instant,
};

use tokio::io::{Interest, unix::AsyncFd};

pub(super) use self::past::Past;
use self::watched::Watched;
pub(super) use self::watched::examine;
use super::{RunError, Settings, classes::Classes, rx_vlan};
use crate::{
    attach::{
        FactsError, Hook, Interface, InterfaceStats, LookupError, Netns, NetnsError, Pattern,
        XdpMode,
        netlink::{
            LinkInfo,
            monitor::{Event, Monitor, links},
        },
        overlap,
    },
    export::Interfaces,
    load::Kernel,
};

/// How interfaces are watched.
#[derive(Clone, Copy, Debug)]
pub(super) struct How {
    hook: Hook,
    xdp_mode: XdpMode,
    egress: bool,
    clsact: bool,
    dedup: bool,
    promisc: bool,
}

impl From<&Settings> for How {
    fn from(settings: &Settings) -> Self {
        Self {
            hook: settings.hook,
            xdp_mode: settings.xdp_mode,
            egress: settings.egress,
            clsact: settings.clsact,
            dedup: settings.dedup,
            promisc: settings.promisc,
        }
    }
}

/// What attaching needs.
pub(super) struct Means<'a> {
    pub(super) kernel: &'a mut Kernel,
    pub(super) classes: &'a Classes,
}

/// The interfaces of a run, in the network namespace that they are in.
pub(super) struct Watch {
    /// Where it is not the process's own.
    netns: Option<Arc<Netns>>,
    there: There,
}

impl Watch {
    /// Looks which interfaces there are, refuses those asked for by name that cannot be watched so,
    /// and warns of what will go wrong on others.
    pub(super) fn new(settings: &Settings, names: Arc<Interfaces>) -> Result<Self, RunError> {
        let netns = settings.netns.as_ref().map(Netns::open).transpose()?;
        let netns = netns.map(Arc::new);
        let there = within(netns.as_deref(), || There::new(settings, names))??;
        Ok(Self { netns, there })
    }

    /// The interfaces that are to be watched and are not yet.
    pub(super) fn candidates(&self) -> Vec<Interface> {
        self.there.candidates()
    }

    /// The interfaces on which packets that come in are seen, where that is of use.
    pub(super) fn seen(&self) -> Option<Vec<u32>> {
        let seen = || self.there.seen.iter().copied().collect();
        self.there.how.dedup.then(seen)
    }

    /// Does something in the network namespace of the interfaces.
    pub(super) fn within<T>(&self, work: impl FnOnce() -> T) -> Result<T, NetnsError> {
        within(self.netns.as_deref(), work)
    }

    /// What is watched, in words.
    pub(super) fn in_words(&self) -> String {
        self.there.in_words()
    }

    /// Attaches to every interface. Where one that was asked for by name refuses, to none.
    pub(super) fn attach(&mut self, means: &mut Means<'_>) -> Result<(), RunError> {
        within(self.netns.as_deref(), || self.there.attach(means))?
    }

    /// Waits until [`follow`](Self::follow) has something to do. What has been read is kept where
    /// this is not waited for to its end.
    pub(super) async fn changed(&mut self) {
        self.there.changed().await;
    }

    /// Does what has become of interfaces: lets go of those that are gone, follows those that are
    /// renamed, and attaches to one that is new. Says whether it did that.
    pub(super) fn follow(&mut self, means: &mut Means<'_>) -> Result<bool, RunError> {
        Ok(within(self.netns.as_deref(), || self.there.follow(means))?)
    }

    /// All programs that may run: their cost is that of metering.
    pub(super) fn programs(&self, kernel: &mut Kernel) -> Result<Vec<OwnedFd>, RunError> {
        self.there.programs(kernel)
    }

    /// Detaches from all; returns what became of each interface that was watched.
    pub(super) fn detach(self) -> Past {
        let Self { netns, there } = self;
        within(netns.as_deref(), || there.detach()).unwrap_or_else(|error| {
            tracing::error!("{error}: the summary has no interfaces");
            Past::default()
        })
    }
}

pub(super) fn within<T>(netns: Option<&Netns>, work: impl FnOnce() -> T) -> Result<T, NetnsError> {
    match netns {
        Some(netns) => netns.within(work),
        None => Ok(work()),
    }
}

/// The interfaces of the network namespace that the calling thread is in.
struct There {
    wanted: Vec<Pattern>,
    how: How,
    monitor: AsyncFd<Monitor>,
    /// What the kernel has told and nobody has looked at.
    events: VecDeque<Event>,
    /// All interfaces there are.
    links: Vec<LinkInfo>,
    watched: Vec<Watched>,
    past: Past,
    /// Those that cannot be watched as they are, by index, and why.
    refused: BTreeMap<u32, String>,
    /// What has been said of them before.
    said: BTreeMap<u32, String>,
    rx_vlan: rx_vlan::Attacher,
    names: Arc<Interfaces>,
    /// Where packets that come in are known to have been seen; for `--dedup`.
    seen: BTreeSet<u32>,
}

impl There {
    fn new(settings: &Settings, names: Arc<Interfaces>) -> Result<Self, RunError> {
        // Opened before the list is asked for, so that nothing is missed in between.
        let monitor = Monitor::open().map_err(RunError::Monitor)?;
        // SAFETY: the monitor owns its descriptor and keeps it open for as long as it lives.
        let monitor = unsafe { AsyncFd::register_with_interest(monitor, Interest::READABLE) };
        let monitor = monitor.map_err(|error| RunError::Monitor(error.into()))?;
        let links = links().map_err(RunError::Links)?;
        let wanted = settings.interfaces.clone();
        for (i, pattern) in wanted.iter().enumerate() {
            let name = pattern.as_str();
            if wanted[..i].contains(pattern) {
                return Err(RunError::Twice(name.to_owned()));
            }
            if pattern.is_plain() && links.iter().all(|link| link.name != name) {
                return Err(RunError::Lookup(LookupError::Unknown {
                    name: name.to_owned(),
                    there_are: links.into_iter().map(|link| link.name).collect(),
                }));
            }
        }
        let mut watch = Self {
            wanted,
            how: settings.into(),
            monitor,
            events: VecDeque::new(),
            links,
            watched: Vec::new(),
            past: Past::default(),
            refused: BTreeMap::new(),
            said: BTreeMap::new(),
            rx_vlan: rx_vlan::Attacher::default(),
            names,
            seen: BTreeSet::new(),
        };
        for interface in watch.candidates() {
            let examined = examine(&interface, watch.how);
            examined.or_else(|error| watch.refuse(&interface, error))?;
        }
        let new: Vec<u32> = watch.candidates().iter().map(|one| one.index).collect();
        watch.warn_of_overlap(&new, &new);
        watch.seen = watch.seen_coming_in(&new);
        Ok(watch)
    }

    fn candidates(&self) -> Vec<Interface> {
        let open = |link: &&LinkInfo| {
            self.is_wanted(&link.name)
                && !self.refused.contains_key(&link.index)
                && self.watched(link.index).is_none()
        };
        self.links.iter().filter(open).map(interface).collect()
    }

    fn in_words(&self) -> String {
        let there: Vec<_> = self.watched.iter().map(Watched::name).collect();
        let patterns = self.wanted.iter().filter(|pattern| !pattern.is_plain());
        let patterns: Vec<_> = patterns.map(Pattern::as_str).collect();
        match (&there[..], &patterns[..]) {
            (_, []) => there.join(", "),
            ([], _) => format!("nothing yet: no interface matches {}", patterns.join(", ")),
            _ => format!(
                "{}, and what else will match {}",
                there.join(", "),
                patterns.join(", ")
            ),
        }
    }

    fn attach(&mut self, means: &mut Means<'_>) -> Result<(), RunError> {
        for interface in self.candidates() {
            self.add(&interface, means)
                .or_else(|error| self.refuse(&interface, error))?;
        }
        Ok(())
    }

    async fn changed(&mut self) {
        if !self.events.is_empty() || !self.candidates().is_empty() {
            return;
        }
        loop {
            let Ok(mut ready) = self.monitor.readable_mut().await else {
                return std::future::pending().await;
            };
            match ready.try_io(|monitor| monitor.get_mut().read()) {
                Ok(Ok(events)) => return self.events.extend(events),
                Ok(Err(error)) => {
                    tracing::warn!("what becomes of interfaces cannot be read: {error}");
                    return self.events.push_back(Event::Lost);
                }
                Err(_would_block) => {}
            }
        }
    }

    fn follow(&mut self, means: &mut Means<'_>) -> bool {
        while let Some(event) = self.events.pop_front() {
            match event {
                Event::There(link) => self.update(*link, means),
                Event::Gone(link) => self.gone(&link, means),
                Event::Lost => self.list_anew(means),
            }
        }
        // One at a time, since to load a program for it takes a while.
        let new = self.candidates().into_iter().next();
        let attached = new.is_some_and(|interface| {
            self.warn_of_overlap_with(&interface);
            let examined = examine(&interface, self.how);
            match examined.and_then(|()| self.add(&interface, means)) {
                Ok(()) => true,
                Err(error) => {
                    self.note(&interface, &error);
                    false
                }
            }
        });
        self.tell_seen(means.kernel);
        attached
    }

    fn programs(&self, kernel: &mut Kernel) -> Result<Vec<OwnedFd>, RunError> {
        let mut programs = Vec::new();
        for frags in [true, false] {
            let program = kernel.program(frags)?.fd()?.as_fd().try_clone_to_owned();
            programs.push(program.map_err(RunError::Start)?);
        }
        for program in self.watched.iter().filter_map(Watched::program) {
            programs.push(program.try_clone_to_owned().map_err(RunError::Start)?);
        }
        for program in kernel.loaded_tc() {
            programs.push(program.map_err(RunError::Start)?);
        }
        Ok(programs)
    }

    fn detach(mut self) -> Past {
        for watched in self.watched {
            self.past.put(watched.detach(None));
        }
        self.past
    }

    fn is_wanted(&self, name: &str) -> bool {
        self.wanted.iter().any(|pattern| pattern.matches(name))
    }

    fn watched(&self, ifindex: u32) -> Option<usize> {
        self.watched.iter().position(|one| one.index() == ifindex)
    }

    fn add(&mut self, interface: &Interface, means: &mut Means<'_>) -> Result<(), RunError> {
        means
            .classes
            .name_interface(means.kernel.shared(), interface);
        let watched = Watched::attach(interface, self.how, means.kernel, &mut self.rx_vlan)?;
        self.watched.push(watched);
        self.names.put(interface.index, &interface.name);
        self.said.remove(&interface.index);
        Ok(())
    }

    /// An interface that a pattern names is left alone, if it cannot be watched.
    fn refuse(&mut self, interface: &Interface, error: RunError) -> Result<(), RunError> {
        let is_same = |pattern: &Pattern| pattern.is_plain() && pattern.matches(&interface.name);
        if self.wanted.iter().any(is_same) {
            return Err(error);
        }
        self.note(interface, &error);
        Ok(())
    }

    /// Notes that an interface cannot be watched as it is now, and says why, once.
    fn note(&mut self, interface: &Interface, error: &RunError) {
        let why = error.to_string();
        let has_gone = matches!(error, RunError::Facts(FactsError::Gone(_)));
        if !has_gone && self.said.get(&interface.index) != Some(&why) {
            tracing::warn!(interface = interface.name, "not watched: {why}");
            self.said.insert(interface.index, why.clone());
        }
        self.refused.insert(interface.index, why);
    }

    fn update(&mut self, link: LinkInfo, means: &Means<'_>) {
        let known = self.links.iter_mut().find(|one| one.index == link.index);
        let has_changed = match known {
            Some(known) => {
                let stats = known.stats;
                let before = std::mem::replace(known, link.clone());
                let now = LinkInfo {
                    stats,
                    ..link.clone()
                };
                before != now
            }
            None => {
                self.links.push(link.clone());
                true
            }
        };
        if has_changed {
            // It may be another matter now.
            self.refused.remove(&link.index);
        }
        let Some(at) = self.watched(link.index) else {
            return;
        };
        let (before, now) = (self.watched[at].name().to_owned(), link.name);
        if before == now {
            return;
        }
        means
            .classes
            .forget_interface(means.kernel.shared(), &before);
        if self.is_wanted(&now) {
            tracing::info!(interface = now, "this is the new name of {before}");
            self.watched[at].rename(&now);
            self.names.put(link.index, &now);
            let interface = interface(&self.links[self.position(link.index)]);
            means
                .classes
                .name_interface(means.kernel.shared(), &interface);
        } else {
            tracing::warn!(
                interface = before,
                "its name is {now} now, which nobody asked for: it is not watched any more"
            );
            self.let_go(at, None);
        }
    }

    fn position(&self, ifindex: u32) -> usize {
        let position = self.links.iter().position(|one| one.index == ifindex);
        position.unwrap_or_default()
    }

    fn gone(&mut self, link: &LinkInfo, means: &Means<'_>) {
        self.links.retain(|one| one.index != link.index);
        self.refused.remove(&link.index);
        self.said.remove(&link.index);
        if let Some(at) = self.watched(link.index) {
            let name = self.watched[at].name();
            means.classes.forget_interface(means.kernel.shared(), name);
            let error = FactsError::Gone(name.to_owned());
            tracing::warn!("{error}: it is not watched any more, until it is back");
            self.let_go(at, Some(link.stats));
        }
    }

    fn let_go(&mut self, at: usize, last: Option<InterfaceStats>) {
        let watched = self.watched.remove(at);
        self.names.lose(watched.index(), Instant::now());
        self.past.put(watched.detach(last));
    }

    /// What was told is not all: what is there is compared with what was.
    fn list_anew(&mut self, means: &Means<'_>) {
        tracing::debug!("interfaces came and went faster than was read: listing them");
        let links = match links() {
            Ok(links) => links,
            Err(error) => return tracing::error!("{}", RunError::Links(error)),
        };
        let is_gone = |known: &LinkInfo| {
            let stays = links.iter().any(|link| link.index == known.index);
            // An index may have been given anew, if somebody asked for it.
            let held = self.watched(known.index).map(|at| &self.watched[at]);
            !stays || held.is_some_and(Watched::has_ended)
        };
        let gone: Vec<_> = self
            .links
            .iter()
            .filter(|one| is_gone(one))
            .cloned()
            .collect();
        for link in &gone {
            self.gone(link, means);
        }
        for link in links {
            self.update(link, means);
        }
    }

    fn seen_coming_in(&self, watched: &[u32]) -> BTreeSet<u32> {
        match self.how.dedup {
            true => overlap::seen_coming_in(&self.links, watched)
                .into_iter()
                .collect(),
            false => BTreeSet::new(),
        }
    }

    /// Tells the program where packets are seen as they come in, if that is another matter than
    /// before. What is attached anew is told of afterwards: no packet may be taken for seen that was not.
    fn tell_seen(&mut self, kernel: &mut Kernel) {
        let watched: Vec<u32> = self.watched.iter().map(Watched::index).collect();
        let seen = self.seen_coming_in(&watched);
        for ifindex in seen.symmetric_difference(&self.seen) {
            if let Err(error) = kernel.set_seen(*ifindex, seen.contains(ifindex)) {
                tracing::warn!("--dedup does not know the interface with index {ifindex}: {error}");
            }
        }
        self.seen = seen;
    }

    fn warn_of_overlap_with(&self, interface: &Interface) {
        let watched = self.watched.iter().map(Watched::index);
        let watched: Vec<u32> = watched.chain([interface.index]).collect();
        self.warn_of_overlap(&watched, &[interface.index]);
    }

    fn warn_of_overlap(&self, watched: &[u32], new: &[u32]) {
        for twice in overlap::counted_twice(&self.links, watched, new, self.how.egress) {
            tracing::warn!("{twice}");
        }
    }
}

fn interface(link: &LinkInfo) -> Interface {
    Interface {
        name: link.name.clone(),
        index: link.index,
    }
}
