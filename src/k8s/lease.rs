//! Which replica writes: the holder of a Lease (coordination.k8s.io/v1).
//!
//! It never knows what a leader does, and decides nothing: `election` does. `app` starts it; the writers read the watch channel.

use std::{pin::pin, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Error,
    api::{ObjectMeta, PostParams},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    Connection, at,
    election::{Action, Answer, Election, Record, Request, Timing},
};
use crate::telemetry::Metrics;

/// One request. Two of them fit into the time in which a leader must renew.
const REQUEST: Duration = Duration::from_secs(4);

/// Tries to give the Lease back, where others write it as well.
const RESIGNATIONS: usize = 3;

/// Whose Lease.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its name, in our own namespace.
    pub name: String,
    /// Who we are: unlike every other replica, and unlike ourselves before a restart.
    pub identity: String,
}

/// Tries to hold the Lease and says whether we do, until `stop`; then gives it back.
pub async fn run(connection: Connection, settings: Settings, leading: watch::Sender<bool>, stop: CancellationToken, metrics: Arc<Metrics>) {
    let leases = Api::namespaced(connection.client, &connection.namespace);
    let election = Election::new(settings.identity.as_str(), Timing::default(), fastrand::u64(..));
    let mut candidate = Candidate { leases, settings, election, last: None, trouble: None, leading, metrics };
    tokio::select! { () = candidate.run() => {}, () = stop.cancelled() => {} }
    candidate.resign().await;
}

struct Candidate {
    leases: Api<Lease>,
    settings: Settings,
    election: Election,
    /// The object as it was last read, with all that is not ours in it.
    last: Option<Lease>,
    /// What was last said about the Lease not being usable.
    trouble: Option<String>,
    leading: watch::Sender<bool>,
    metrics: Arc<Metrics>,
}

impl Candidate {
    async fn run(&mut self) {
        loop {
            let sent = Instant::now();
            match self.election.next(sent, Timestamp::now()) {
                Action::Wait(until) => self.mind_the_deadline(sleep_until(until)).await,
                Action::Ask(request) => {
                    let asked = ask(self.leases.clone(), self.settings.name.clone(), self.last.take(), request);
                    let heard = self.mind_the_deadline(timeout(REQUEST, asked)).await;
                    let answer = self.understand(heard.unwrap_or_else(|_| Err("no answer in time".to_owned())));
                    self.election.hear(answer, sent, Instant::now());
                    self.tell();
                }
            }
        }
    }

    /// Waits for something, and leads no more when the time for that comes first, be the API server as slow as it likes.
    async fn mind_the_deadline<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            let deadline = self.election.leads_until().filter(|until| *until > Instant::now());
            tokio::select! {
                done = &mut work => return done,
                () = at(deadline) => self.tell(),
            }
        }
    }

    /// Says whether we lead, where that changed.
    fn tell(&self) {
        let leads = self.election.is_leader(Instant::now());
        let changed = self.leading.send_if_modified(|leading| std::mem::replace(leading, leads) != leads);
        if !changed {
            return;
        }
        self.metrics.leader.set(i64::from(leads));
        self.metrics.leader_transitions.inc();
        let (lease, identity) = (&self.settings.name, &self.settings.identity);
        if leads {
            info!(lease, identity, "leading: this replica writes statuses");
        } else {
            info!(lease, identity, "leading no more: another replica writes statuses");
        }
    }

    /// Keeps what was read, and says once what is wrong.
    fn understand(&mut self, heard: Result<(Answer, Option<Lease>), String>) -> Answer {
        match heard {
            Ok((answer, lease)) => {
                self.trouble = None;
                self.last = lease;
                answer
            }
            Err(trouble) => {
                if self.trouble.as_ref() != Some(&trouble) {
                    let lease = &self.settings.name;
                    warn!(lease, "the Lease can not be used, and statuses are not written by this replica until it can: {trouble}");
                    self.trouble = Some(trouble);
                }
                Answer::Failed
            }
        }
    }

    /// Leads no more, and lets others know at once.
    async fn resign(mut self) {
        let led = self.leading.send_replace(false);
        self.metrics.leader.set(0);
        for _ in 0..RESIGNATIONS {
            let Ok(Ok(lease)) = timeout(REQUEST, self.leases.get(&self.settings.name)).await else { return };
            let Some(released) = self.election.resign(record(&lease), Timestamp::now()) else { return };
            let write = ask_write(&self.leases, &self.settings.name, Some(lease), released);
            if let Ok(Ok((Answer::Written(_), _))) = timeout(REQUEST, write).await {
                if led {
                    info!(lease = self.settings.name, "the Lease is given back");
                }
                return;
            }
        }
    }
}

/// Does what the election says. An error says in words why nobody knows.
async fn ask(leases: Api<Lease>, name: String, last: Option<Lease>, request: Request) -> Result<(Answer, Option<Lease>), String> {
    match request {
        Request::Read => match leases.get_opt(&name).await {
            Ok(Some(lease)) => Ok((Answer::Found(record(&lease), version(&lease)), Some(lease))),
            Ok(None) => Ok((Answer::Absent, None)),
            Err(error) => Err(error.to_string()),
        },
        Request::Create(record) => ask_write(&leases, &name, None, record).await,
        Request::Replace(record, version) => {
            let mut lease = last.unwrap_or_default();
            lease.metadata.resource_version = Some(version);
            ask_write(&leases, &name, Some(lease), record).await
        }
    }
}

/// Creates the Lease, or replaces the one that was read.
async fn ask_write(leases: &Api<Lease>, name: &str, last: Option<Lease>, record: Record) -> Result<(Answer, Option<Lease>), String> {
    let params = PostParams::default();
    let written = match last {
        Some(mut lease) => {
            lease.metadata.name = Some(name.to_owned());
            lease.spec = Some(spec(record, lease.spec.unwrap_or_default()));
            lease.metadata.managed_fields = None;
            leases.replace(name, &params, &lease).await
        }
        None => {
            let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
            leases.create(&params, &Lease { metadata, spec: Some(spec(record, LeaseSpec::default())) }).await
        }
    };
    match written {
        Ok(lease) => Ok((Answer::Written(version(&lease)), Some(lease))),
        Err(Error::Api(status)) if status.code == 409 || status.code == 404 => Ok((Answer::Conflict, None)),
        Err(error) => Err(error.to_string()),
    }
}

fn version(lease: &Lease) -> String {
    lease.metadata.resource_version.clone().unwrap_or_default()
}

fn record(lease: &Lease) -> Record {
    let spec = lease.spec.clone().unwrap_or_default();
    Record {
        holder: spec.holder_identity.filter(|holder| !holder.is_empty()),
        duration: spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs),
        acquired: spec.acquire_time.map(|time| time.0),
        renewed: spec.renew_time.map(|time| time.0),
        transitions: spec.lease_transitions.unwrap_or_default(),
    }
}

/// The record in the place of another, whose further fields stay.
fn spec(record: Record, last: LeaseSpec) -> LeaseSpec {
    LeaseSpec {
        holder_identity: Some(record.holder.unwrap_or_default()),
        lease_duration_seconds: record.duration.and_then(|duration| i32::try_from(duration.as_secs()).ok()),
        acquire_time: record.acquired.map(MicroTime),
        renew_time: record.renewed.map(MicroTime),
        lease_transitions: Some(record.transitions),
        ..last
    }
}
