//! What is told, and what else a machine shows.

use dmio::{DeviceIndex, Event, Late, Machine, MemoryKind, RegionEvent, RegionState, RequestId};
use iomgr_core::{Errno, Timestamp};

use super::{Key, Model, News, Place};

impl Model {
    pub(crate) fn answer_late(&mut self, now: Timestamp, key: Key, result: Result<(), Errno>) {
        let never = matches!(self.part(key).state, Some(RegionState::Cancelled(how)) if how.never_started);
        self.part_mut(key).answer = Some((now, result));
        self.haunt(key);
        if !never {
            self.counters.late += 1;
            self.news.push((key.0, News::Late(key.1)));
        }
        self.settle(key);
    }

    pub(crate) fn event(&mut self, event: Option<Event>) {
        match event {
            None => self.nothing_to_tell(),
            Some(Event::Region(event)) => self.region_event(event),
            Some(Event::Late(late)) => self.late(late),
            Some(Event::MemoryFree(id)) => {
                let request = self.find(id).expect("it is not forgotten");
                self.told(request, News::MemoryFree);
            }
            Some(Event::Degraded(device)) => self.told_health(device, true),
            Some(Event::Healthy(device)) => self.told_health(device, false),
        }
    }

    fn nothing_to_tell(&self) {
        assert!(self.news.is_empty(), "{:?} is not told", self.news);
        for (number, device) in (0..).zip(&self.devices) {
            assert_eq!(device.told_degraded, self.is_degraded(DeviceIndex(number)));
        }
    }

    fn told_health(&mut self, device: DeviceIndex, is_degraded: bool) {
        assert_eq!(self.is_degraded(device), is_degraded);
        let told = std::mem::replace(&mut self.device_mut(device).told_degraded, is_degraded);
        assert_ne!(told, is_degraded, "it was told");
    }

    /// Takes news from the list, before which there must be none of the same region.
    fn told(&mut self, request: usize, news: News) {
        let part = |news| match news {
            News::Timeout(part) | News::End(part) | News::Late(part) => Some(part),
            News::MemoryFree => None,
        };
        let first = self
            .news
            .iter()
            .position(|&(about, other)| about == request && part(other) == part(news));
        let (_, first) = self
            .news
            .remove(first.unwrap_or_else(|| panic!("no news of {request}: {news:?}")));
        assert_eq!(first, news, "of {request}");
    }

    fn region_event(&mut self, event: RegionEvent) {
        let request = self.find(event.request).expect("it is not forgotten");
        let key = (request, event.region);
        let part = self.part(key).clone();
        if event.state == RegionState::Timeout {
            assert_eq!(event.at, part.timed_out);
            assert!(!event.is_last && !event.is_memory_free && !event.indeterminate);
            return self.told(request, News::Timeout(event.region));
        }
        assert_eq!((Some(event.state), event.at), (part.state, part.ended));
        assert_eq!(
            event.indeterminate,
            part.is_indeterminate && event.state == RegionState::Ok
        );
        self.told(request, News::End(event.region));
        let is_end = |&(about, news): &(usize, News)| about == request && matches!(news, News::End(_));
        let is_last = self.running(request).is_empty() && !self.news.iter().any(is_end);
        let is_lent = matches!(self.requests[request].memory, MemoryKind::Lent { .. });
        let has_orphans = self.requests[request]
            .parts
            .iter()
            .any(|part| part.place == Place::Orphan);
        let is_memory_free = is_last && !(is_lent && has_orphans);
        assert_eq!((event.is_last, event.is_memory_free), (is_last, is_memory_free));
        self.requests[request].owes_memory = is_last && !is_memory_free;
    }

    fn late(&mut self, late: Late) {
        let request = self.find(late.request).expect("it is not forgotten");
        let part = self.part((request, late.region)).clone();
        assert_eq!((late.device, late.range), (part.region.device, part.region.range));
        assert_eq!((late.generation, late.op), (part.generation, self.requests[request].op));
        let (answered, answer) = part.answer.expect("it was answered");
        assert_eq!((late.after, late.result), (answered.since(part.ended), answer));
        self.told(request, News::Late(late.region));
    }

    /// What the machine shows at any time.
    pub(crate) fn compare(&self, machine: &Machine) {
        assert_eq!(machine.counters(), self.counters);
        let taken = machine.occupancy();
        let remembered: Vec<_> = (0..self.requests.len())
            .filter(|&request| !self.is_forgotten(request))
            .collect();
        assert_eq!(taken.requests as usize, remembered.len());
        let running = remembered.iter().map(|&request| self.running(request).len());
        assert_eq!(taken.running as usize, running.sum::<usize>());
        let orphans = self.keys().filter(|&key| self.part(key).place == Place::Orphan);
        assert_eq!(taken.orphans as usize, orphans.count());
        for request in remembered {
            self.compare_request(machine, request);
        }
        self.compare_time(machine);
    }

    fn compare_request(&self, machine: &Machine, request: usize) {
        let id: RequestId = self.requests[request].id;
        assert_eq!(machine.is_over(id), self.running(request).is_empty());
        assert_eq!(machine.regions(id), self.requests[request].parts.len());
        for (region, part) in self.requests[request].parts.iter().enumerate() {
            let timeout = part.is_timed_out.then_some(RegionState::Timeout);
            assert_eq!(machine.state(id, region), part.state.or(timeout));
        }
    }

    /// It wants to be called in time.
    fn compare_time(&self, machine: &Machine) {
        let first = self.armed.iter().map(|(tick, _)| tick << dmio::TICK_SHIFT).min();
        let wanted = machine.poll_timeout().map(Timestamp::as_nanos);
        assert_eq!(wanted.is_some(), first.is_some());
        assert!(wanted <= first, "{wanted:?} {first:?}");
    }
}
