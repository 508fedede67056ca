//! The interfaces of one network namespace: watched is what is there and has a name that is asked for.

use std::{
    collections::{BTreeSet, VecDeque},
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::io::{Interest, unix::AsyncFd};

use super::{
    How, Means, Past, RunError, Settings,
    refused::{Obstacle, Refused},
    rx_vlan,
    watched::{End, Watched, examine, findings},
};
use crate::{
    attach::{
        AttachError, FactsError, Interface, InterfaceStats, LookupError, Pattern, TcError,
        netlink::{
            LinkInfo,
            monitor::{Event, Links, Monitor, links},
        },
        overlap,
    },
    export::Interfaces,
    load::Kernel,
};

/// How long until a list is asked for again that could not be had, or not whole.
const LIST_AGAIN: Duration = Duration::from_secs(1);
/// Events that are read at most before the list that they are older than.
const OLDER: usize = 4096;

/// The interfaces of the network namespace that the calling thread is in.
pub(super) struct There {
    wanted: Vec<Pattern>,
    how: How,
    monitor: AsyncFd<Monitor>,
    /// What the kernel has told and nobody has looked at.
    events: VecDeque<Event>,
    /// When all interfaces are to be listed anew, since something was missed.
    list_at: Option<Instant>,
    /// All interfaces there are.
    links: Vec<LinkInfo>,
    watched: Vec<Watched>,
    past: Past,
    refused: Refused,
    /// Those of which warnings were given, and that are not watched yet.
    warned: BTreeSet<u32>,
    rx_vlan: rx_vlan::Attacher,
    names: Arc<Interfaces>,
    /// Where packets that come in are known to have been seen; for `--dedup`.
    seen: BTreeSet<u32>,
}

impl There {
    pub(super) fn new(settings: &Settings, names: Arc<Interfaces>) -> Result<Self, RunError> {
        // Opened before the list is asked for, so that nothing is missed in between.
        let monitor = Monitor::open().map_err(RunError::Monitor)?;
        // SAFETY: the monitor owns its descriptor and keeps it open for as long as it lives.
        let monitor = unsafe { AsyncFd::register_with_interest(monitor, Interest::READABLE) };
        let monitor = monitor.map_err(|error| RunError::Monitor(error.into()))?;
        let Links { links, is_whole } = links().map_err(RunError::Links)?;
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
            list_at: (!is_whole).then(Instant::now),
            links,
            watched: Vec::new(),
            past: Past::default(),
            refused: Refused::default(),
            warned: BTreeSet::new(),
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

    pub(super) fn candidates(&self) -> Vec<Interface> {
        let now = Instant::now();
        let open = |link: &&LinkInfo| {
            self.is_wanted(&link.name)
                && !self.refused.is_closed(link.index, now)
                && self.watched(link.index).is_none()
        };
        self.links.iter().filter(open).map(interface).collect()
    }

    /// The interfaces on which packets that come in are seen, where that is of use.
    pub(super) fn seen(&self) -> Option<Vec<u32>> {
        let seen = || self.seen.iter().copied().collect();
        self.how.dedup.then(seen)
    }

    pub(super) fn in_words(&self) -> String {
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

    pub(super) fn attach(&mut self, means: &mut Means<'_>) -> Result<(), RunError> {
        for interface in self.candidates() {
            self.add(&interface, means)
                .or_else(|error| self.refuse(&interface, error))?;
        }
        // Of those that were to be watched when the program was loaded, some may not be.
        self.tell_seen(means.kernel);
        Ok(())
    }

    pub(super) async fn changed(&mut self) {
        if !self.events.is_empty() || !self.candidates().is_empty() {
            return;
        }
        let due = self.refused.next_due(Instant::now());
        let due = due.into_iter().chain(self.list_at).min();
        let again = async {
            match due {
                Some(due) => tokio::time::sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(again);
        loop {
            let ready = tokio::select! {
                ready = self.monitor.readable_mut() => ready,
                () = &mut again => return,
            };
            let Ok(mut ready) = ready else {
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

    pub(super) fn follow(&mut self, means: &mut Means<'_>) -> bool {
        while let Some(event) = self.events.pop_front() {
            match event {
                Event::There(link) => self.update(*link, means),
                Event::Gone(link) => self.gone(&link, Some(link.stats), means),
                Event::Lost => self.list_at = Some(Instant::now()),
            }
        }
        if self.list_at.is_some_and(|at| at <= Instant::now()) {
            self.read_older(means);
            self.list_anew(means);
        }
        // One at a time, since to load a program for it takes a while.
        let new = self.candidates().into_iter().next();
        let attached = new.is_some_and(|interface| match self.add_later(&interface, means) {
            Ok(()) => true,
            Err(error) => {
                self.note(&interface, &error);
                false
            }
        });
        self.tell_seen(means.kernel);
        attached
    }

    pub(super) fn programs(&self, kernel: &mut Kernel) -> Result<Vec<OwnedFd>, RunError> {
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

    pub(super) fn detach(mut self) -> Past {
        for watched in self.watched {
            self.past.put(watched.detach(End::There));
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
        self.refused.forget(interface.index);
        Ok(())
    }

    /// The same with the warnings, which are not given again while it is refused.
    fn add_later(&mut self, interface: &Interface, means: &mut Means<'_>) -> Result<(), RunError> {
        let findings = findings(interface, self.how)?;
        if self.warned.insert(interface.index) {
            self.warn_of_overlap_with(interface);
            for finding in findings {
                tracing::warn!("{finding}");
            }
        }
        self.add(interface, means)?;
        self.warned.remove(&interface.index);
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
        let has_gone = matches!(error, RunError::Facts(FactsError::Gone(_)));
        let (now, index) = (Instant::now(), interface.index);
        let is_news = self
            .refused
            .note(index, error.to_string(), obstacle(error), now);
        if is_news && !has_gone {
            tracing::warn!(interface = interface.name, "not watched: {error}");
        } else {
            tracing::debug!(interface = interface.name, "still not watched: {error}");
        }
    }

    fn update(&mut self, link: LinkInfo, means: &Means<'_>) {
        let known = self.links.iter_mut().find(|one| one.index == link.index);
        match known {
            Some(known) => {
                let before = std::mem::replace(known, link.clone());
                self.refused.changed(&before, &link);
            }
            None => self.links.push(link.clone()),
        }
        let Some(at) = self.watched(link.index) else {
            return;
        };
        let (before, now) = (self.watched[at].interface().clone(), link.name);
        if before.name == now {
            return;
        }
        means
            .classes
            .forget_interface(means.kernel.shared(), &before);
        let before = before.name;
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
            self.let_go(at, End::There);
        }
    }

    fn position(&self, ifindex: u32) -> usize {
        let position = self.links.iter().position(|one| one.index == ifindex);
        position.unwrap_or_default()
    }

    /// `last` are its counters, where they were told as it went.
    fn gone(&mut self, link: &LinkInfo, last: Option<InterfaceStats>, means: &Means<'_>) {
        self.links.retain(|one| one.index != link.index);
        self.refused.forget(link.index);
        self.warned.remove(&link.index);
        if let Some(at) = self.watched(link.index) {
            let held = self.watched[at].interface();
            means.classes.forget_interface(means.kernel.shared(), held);
            let error = FactsError::Gone(held.name.clone());
            tracing::warn!("{error}: it is not watched any more, until it is back");
            self.let_go(at, End::Gone(last));
        }
    }

    fn let_go(&mut self, at: usize, end: End) {
        let watched = self.watched.remove(at);
        self.names.lose(watched.index(), Instant::now());
        self.past.put(watched.detach(end));
    }

    /// What waits to be read is older than the list that is asked for next, and would be taken for newer.
    fn read_older(&mut self, means: &Means<'_>) {
        for _ in 0..OLDER {
            let Ok(events) = self.monitor.get_mut().read() else {
                return;
            };
            for event in events {
                match event {
                    Event::There(link) => self.update(*link, means),
                    Event::Gone(link) => self.gone(&link, Some(link.stats), means),
                    Event::Lost => {}
                }
            }
        }
    }

    /// What was told is not all: what is there is compared with what was.
    fn list_anew(&mut self, means: &Means<'_>) {
        tracing::debug!("interfaces came and went faster than was read: listing them");
        let Links { links, is_whole } = links().unwrap_or_else(|error| {
            tracing::error!("{}", RunError::Links(error));
            Links::default()
        });
        self.list_at = (!is_whole).then(|| Instant::now() + LIST_AGAIN);
        let is_gone = |known: &LinkInfo| {
            let stays = links.iter().any(|link| link.index == known.index);
            // An index may have been given anew, if somebody asked for it.
            let held = self.watched(known.index).map(|at| &self.watched[at]);
            (!stays && is_whole) || held.is_some_and(Watched::has_ended)
        };
        let gone: Vec<_> = self
            .links
            .iter()
            .filter(|one| is_gone(one))
            .cloned()
            .collect();
        for link in &gone {
            self.gone(link, None, means);
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

/// What has to go before an interface can be watched that refused.
fn obstacle(error: &RunError) -> Obstacle {
    match error {
        RunError::Attach(AttachError::Foreign { .. } | AttachError::Busy { .. })
        | RunError::Tc(TcError::OtherQdisc { .. } | TcError::Full { .. }) => Obstacle::Taken,
        _ => Obstacle::Itself,
    }
}

fn interface(link: &LinkInfo) -> Interface {
    Interface {
        name: link.name.clone(),
        index: link.index,
    }
}
