//! Where this node stands, told to the leader and to whoever looks at the node.

use std::time::{Duration, Instant};

use consensus_proto::cita::exchange as wire;

use super::Task;
use crate::application::controller::ControllerStatus;
use crate::transport::cita::Mail;

/// Reports that differ leave this far apart at least.
const REPORT_MIN: Duration = Duration::from_millis(100);
/// Reports that do not differ leave this far apart.
const REPORT_MAX: Duration = Duration::from_secs(3);
/// A block is overdue after this long.
const OVERDUE: Duration = Duration::from_millis(300);

impl Task {
    pub(super) fn own_report(&self, now: Instant) -> wire::Report {
        let stuck = self.stuck(now);
        wire::Report {
            height: self.desk.height().unwrap_or(0),
            healthy: self.desk.healthy(now),
            agreed_index: self.agreement.index(),
            stuck_height: stuck.map_or(0, |stuck| stuck.height),
            stuck_code: stuck.map_or(0, |stuck| stuck.code.0),
            in_flight: self.desk.is_uncertain(),
            answered_ms_ago: self
                .desk
                .answered_at()
                .map_or(u64::MAX, |at| now.duration_since(at).as_millis() as u64),
        }
    }

    /// Whether the next block should be there by now.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        now >= self.proposer.due() + OVERDUE
    }

    /// While a block is overdue the leader must know whose controllers answer now.
    pub(super) fn look_while_overdue(&mut self, now: Instant) {
        if self.is_overdue(now) && !self.leads() {
            let lately = now.checked_sub(OVERDUE).unwrap_or(now);
            self.desk.ping_unless_heard_since(lately.max(self.proposer.due()), now);
        }
    }

    /// Tells the leader where this node's controller is.
    pub(super) fn report(&mut self, now: Instant) {
        if self.leads() || self.desk.height().is_none() {
            return;
        }
        let Some(leader) = self.chain.status().leader.filter(|leader| *leader != self.app.own) else {
            return;
        };
        let report = self.own_report(now);
        if let Some((to, former, at)) = &self.reported {
            // An outcome that is open for a moment is nothing new.
            let wire::Report { in_flight, agreed_index, answered_ms_ago, .. } = report;
            let former = wire::Report { in_flight, agreed_index, answered_ms_ago, ..*former };
            let same = *to == leader && former == report;
            let pause = match same {
                false => REPORT_MIN,
                true if self.is_overdue(now) => OVERDUE,
                true => REPORT_MAX,
            };
            if now < *at + pause {
                return;
            }
        }
        self.reported = Some((leader, report, now));
        self.app.post.mail(leader, Mail::Report(report));
    }

    /// Publishes where things stand, if that has changed.
    pub(super) fn tell(&mut self, now: Instant) {
        self.app.metrics.agreed_height(self.agreement.height());
        let configuration = self.desk.configuration();
        let stuck = self.stuck(now).map(|stuck| {
            format!("the controller does not take agreed block {}: {}", stuck.height, stuck.code)
        });
        let reasons = [self.bad_list.clone(), self.waiting.clone(), stuck];
        let trouble = reasons.into_iter().flatten().next().or_else(|| self.unwell(now));
        let status = ControllerStatus {
            height: self.desk.height(),
            agreed_height: self.agreement.height(),
            healthy: self.desk.healthy(now),
            block_interval_ms: configuration.map_or(0, |c| c.block_interval.as_millis() as u64),
            validators: configuration
                .map_or_else(Vec::new, |c| c.validators.iter().map(hex::encode).collect()),
            trouble,
        };
        self.app.status.send_if_modified(|present| {
            let changed = *present != status;
            *present = status;
            changed
        });
    }

    fn unwell(&self, now: Instant) -> Option<String> {
        if !self.desk.healthy(now) {
            return Some("the controller does not answer".to_owned());
        }
        self.proposer.trouble().map(str::to_owned)
    }
}
