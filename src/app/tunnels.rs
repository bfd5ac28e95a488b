//! `carrick tunnels`: who is asked, by which way, and what is printed of the answers.
//!
//! Replicas are asked at the same time; one that can't be reached is named, and only if none could it is a failure.

use std::{
    io::{IsTerminal as _, stdout},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use futures_util::future::join_all;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::{
    io::DuplexStream,
    net::TcpStream,
    runtime::Builder,
    signal::unix::{SignalKind, signal},
    time::{Instant, sleep, timeout},
};
use tokio_util::either::Either;

use super::print;
use crate::{
    cli::{ADMIN_BIND, Drain, Ended, List, Output, Reach, Top, Tunnels, Which},
    k8s::{
        self,
        forward::{self, Forward, Replica},
    },
    model::sight::{Closing, Page},
    sight::{
        Answer, Answers, Listing, Unreached,
        ask::{AskError, Conversation, End, Wanted},
        rates::Rates,
        screen::Screen,
        show::{self, Columns},
    },
};

/// For all that one replica is asked at a time: as long as its admin port listens to one connection.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs one of the commands.
pub fn run(tunnels: Tunnels) -> anyhow::Result<ExitCode> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match tunnels {
            Tunnels::List(flags) => list(&flags).await,
            Tunnels::Top(flags) => top(&flags).await,
            Tunnels::Drain(Drain { ended, over }) => end(End::Drain, &ended, over.0).await,
            Tunnels::Kill(ended) => end(End::Kill, &ended, Duration::ZERO).await,
        }
    })
}

async fn list(flags: &List) -> anyhow::Result<ExitCode> {
    let limit = if flags.limit == 0 { usize::MAX } else { flags.limit };
    let wanted = Wanted { filters: query(&flags.meant.which), sort: flags.sort, limit };
    let listing = look(&Replicas::find(&flags.meant.reach).await?, &wanted).await;
    some_reached(&listing.answers)?;
    let text = match flags.output {
        Output::Table => show::table(&listing, Columns::Narrow),
        Output::Wide => show::table(&listing, Columns::Wide),
        Output::Json => show::json(&listing)?,
    };
    let code = print(&text)?;
    eprint!("{}{}", show::notes(&listing.answers), show::rest(&listing).unwrap_or_default());
    Ok(code)
}

/// Looks again and again, until the terminal or a signal says that it is enough.
async fn top(flags: &Top) -> anyhow::Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let terminal = stdout().is_terminal();
    let times = flags.times.unwrap_or(if terminal { u32::MAX } else { 1 });
    let wanted = Wanted { filters: query(&flags.meant.which), sort: flags.sort, limit: flags.limit };
    let mut rates = Rates::default();
    let mut screen = None;
    let looks = async {
        let mut replicas = Replicas::find(&flags.meant.reach).await?;
        for look_number in 1..=times {
            let listing = look(&replicas, &wanted).await;
            // Once it runs, it says who is away and goes on.
            if look_number == 1 {
                some_reached(&listing.answers)?;
            }
            let frame = show::frame(&listing, &rates.since_last(&listing, Instant::now()));
            if !terminal || times == 1 {
                print(&frame)?;
            } else if let Some(screen) = &mut screen {
                Screen::draw(screen, &frame)?;
            } else {
                screen.insert(Screen::take(stdout())?).draw(&frame)?;
            }
            if look_number < times {
                sleep(flags.interval.0).await;
                // Replicas come and go, and so does the API server.
                replicas = Replicas::find(&flags.meant.reach).await.unwrap_or(replicas);
            }
        }
        anyhow::Ok(())
    };
    tokio::select! {
        looked = looks => looked?,
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(ExitCode::SUCCESS)
}

async fn end(end: End, flags: &Ended, over: Duration) -> anyhow::Result<ExitCode> {
    let (all, mut query) = (flags.all, query(&flags.meant.which));
    if query.is_empty() && !all {
        bail!("this would be every tunnel: name some by --route, --service, --endpoint or another filter, or say --all");
    }
    query.push_str(&format!("&all={all}&over={}", over.as_secs_f64()));
    let replicas = Replicas::find(&flags.meant.reach).await?;
    let answers: Answers<Closing> = replicas.ask(async |conversation| conversation.end(end, &query).await).await;
    some_reached(&answers)?;
    let code = print(&match flags.output {
        Output::Table | Output::Wide => show::closing(&answers, end, over),
        Output::Json => show::json(&answers)?,
    })?;
    eprint!("{}", show::notes(&answers));
    Ok(code)
}

async fn look(replicas: &Replicas, wanted: &Wanted) -> Listing {
    let pages: Answers<Page> = replicas.ask(async |conversation| conversation.list(wanted).await).await;
    Listing::merge(pages, wanted.sort, wanted.limit)
}

fn some_reached<T>(answers: &Answers<T>) -> anyhow::Result<()> {
    match answers.reached.is_empty() {
        true => Err(anyhow!("{}", show::notes(answers).trim_end().replace('\n', "; "))),
        false => Ok(()),
    }
}

/// The filters as the admin port reads them.
fn query(which: &Which) -> String {
    let Which { route, route_namespace, location, service, endpoint, client, state, reason, min_age, min_idle, min_bytes } = which;
    let given = [
        ("route", route.as_ref().map(ToString::to_string)),
        ("namespace", route_namespace.clone()),
        ("location", location.clone()),
        ("service", service.clone()),
        ("endpoint", endpoint.clone()),
        ("client", client.clone()),
        ("state", state.map(|state| state.label().into())),
        ("reason", reason.clone()),
        ("min_age", min_age.map(|age| age.to_string())),
        ("min_idle", min_idle.map(|idle| idle.to_string())),
        ("min_bytes", min_bytes.map(|bytes| bytes.to_string())),
    ];
    let written = |(name, value): (&str, Option<String>)| Some(format!("{name}={}", utf8_percent_encode(&value?, NON_ALPHANUMERIC)));
    given.into_iter().filter_map(written).collect::<Vec<_>>().join("&")
}

/// Everybody who is asked.
enum Replicas {
    /// One, at an address.
    At(String),
    /// The Pods of a cluster.
    Pods(k8s::Connection, Vec<Replica>),
}

impl Replicas {
    async fn find(reach: &Reach) -> anyhow::Result<Self> {
        if let Some(address) = &reach.admin {
            return Ok(Self::At(address.clone()));
        }
        let access = k8s::Access { kubeconfig: reach.kubeconfig.clone(), context: reach.context.clone() };
        let connection = k8s::connect(&access).await?;
        let pods = forward::replicas(&connection, reach.namespace.as_deref(), &reach.selector, ADMIN_BIND.port()).await?;
        if pods.is_empty() {
            let place = reach.namespace.as_ref().map_or("any namespace that you may see".into(), |name| format!("namespace {name}"));
            bail!("no pod with the labels {} runs in {place}: say --namespace and --selector, or --admin HOST:PORT", reach.selector);
        }
        Ok(Self::Pods(connection, pods))
    }

    /// Asks all of them.
    async fn ask<T>(&self, talk: impl AsyncFn(&mut Conversation<Way>) -> Result<T, AskError>) -> Answers<T> {
        let mut answers = Answers { reached: Vec::new(), unreached: Vec::new() };
        let said: Vec<(Arc<str>, anyhow::Result<T>)> = match self {
            Self::At(address) => vec![(address.as_str().into(), patiently(ask_address(address, &talk)).await)],
            Self::Pods(connection, pods) => {
                let ask = async |pod: &Replica| {
                    let name = format!("{}/{}", pod.namespace, pod.pod).into();
                    (name, patiently(ask_pod(connection, pod, &talk)).await)
                };
                join_all(pods.iter().map(ask)).await
            }
        };
        for (replica, said) in said {
            match said {
                Ok(said) => answers.reached.push(Answer { replica, said }),
                Err(error) => answers.unreached.push(Unreached { replica, why: format!("{error:#}") }),
            }
        }
        answers
    }
}

/// A stream to an admin port.
type Way = Either<TcpStream, DuplexStream>;

async fn ask_address<T>(address: &str, talk: impl AsyncFn(&mut Conversation<Way>) -> Result<T, AskError>) -> anyhow::Result<T> {
    let stream = TcpStream::connect(address).await.with_context(|| format!("{address} can not be connected to"))?;
    Ok(talk(&mut Conversation::over(Either::Left(stream))).await?)
}

async fn ask_pod<T>(
    connection: &k8s::Connection,
    pod: &Replica,
    talk: impl AsyncFn(&mut Conversation<Way>) -> Result<T, AskError>,
) -> anyhow::Result<T> {
    let Forward { stream, failure } = Forward::open(connection, pod).await?;
    let said = talk(&mut Conversation::over(Either::Right(stream))).await;
    match said {
        Err(AskError::Ended(error)) => Err(match failure.cause().await {
            Some(cause) => cause.into(),
            None => AskError::Ended(error).into(),
        }),
        said => Ok(said?),
    }
}

async fn patiently<T>(said: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    timeout(PATIENCE, said).await.unwrap_or_else(|_| Err(anyhow!("it did not answer within {} s", PATIENCE.as_secs())))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn filters(words: &[&str]) -> String {
        let words = ["carrick", "tunnels", "list"].iter().chain(words);
        let Command::Tunnels(tunnels) = Cli::parse_from(words).command else { unreachable!() };
        let Tunnels::List(list) = *tunnels else { unreachable!() };
        query(&list.meant.which)
    }

    #[test]
    fn flags_become_the_query_of_the_admin_port() {
        assert_eq!(filters(&[]), "");
        let all = [
            "--route=default/chat",
            "--route-namespace=default",
            "--location=/ws?&",
            "--service=default/chat:80",
            "--endpoint=[::1]:80",
            "--client=10.0.0.0/8",
            "--state=ordered",
            "--reason=pod_terminating",
            "--min-age=90s",
            "--min-idle=1m",
            "--min-bytes=7",
        ];
        assert_eq!(
            filters(&all),
            "route=default%2Fchat&namespace=default&location=%2Fws%3F%26&service=default%2Fchat%3A80&endpoint=%5B%3A%3A1%5D%3A80&\
             client=10%2E0%2E0%2E0%2F8&state=ordered&reason=pod%5Fterminating&min_age=1m30s&min_idle=1m&min_bytes=7"
        );
    }
}
