//! Prints every metric in the OpenMetrics text format. The names are an API: a renamed one breaks somebody's alert.
//!
//! It never counts; it reads the counters of [`Metrics`] and what the scrape observed. `admin` calls it.

use std::{fmt::Error, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::{Registry, Unit},
};

use super::{
    counter::{Histogram, Tally},
    metrics::{Applied, ByOpcode, LocationLabels, LocationMetrics, Metrics, Observed, Opcode, OpenTunnels},
    watch::WatchMetrics,
};

/// The Content-Type of what [`expose`] prints.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics as they stand now.
pub fn expose(metrics: &Arc<Metrics>, observed: Observed) -> Result<String, Error> {
    let mut registry = Registry::with_prefix("carrick");
    registry.register_collector(Box::new(Scrape { locations: metrics.locations(), metrics: metrics.clone(), observed }));
    let mut page = String::new();
    text::encode(&mut page, &registry)?;
    Ok(page)
}

#[derive(Debug)]
struct Scrape {
    metrics: Arc<Metrics>,
    locations: Vec<(LocationLabels, Arc<LocationMetrics>)>,
    observed: Observed,
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut page = Page(encoder);
        self.process(&mut page)?;
        self.watches(&mut page)?;
        self.observed(&mut page)?;
        self.requests(&mut page)?;
        self.tunnels(&mut page)
    }
}

impl Scrape {
    fn process(&self, page: &mut Page<'_>) -> Result<(), Error> {
        let metrics = &*self.metrics;
        page.gauges("build_info", "The version that runs", None, |series| series.gauge(&[("version", env!("CARGO_PKG_VERSION"))], 1))?;
        page.gauge(
            "learned_sessions",
            "Names of sessions that were read from answers, and where those are",
            metrics.learned_sessions.get(),
        )?;
        page.gauge("learned_sessions_limit", "The most of them that are held", metrics.learned_sessions_limit.get())?;
        page.counter(
            "learned_sessions_evicted",
            "Those that were forgotten because there were more",
            metrics.learned_sessions_evicted.get(),
        )?;
        page.gauge("generation", "Configurations published since the start", metrics.generation.get())?;
        page.gauge("config_errors", "WsRoutes that are not served as they ask for", metrics.config_errors.get())?;
        page.counter("router_compilations", "Times the router was compiled", metrics.router_compilations.get())?;
        page.gauge("leader", "Whether this replica holds the Lease and writes statuses", metrics.leader.get())?;
        page.counter("leader_transitions", "Times that this replica began or ceased to lead", metrics.leader_transitions.get())?;
        page.outcomes("status_writes", "Writes of statuses to WsRoutes", &metrics.status_writes)?;
        page.gauge("status_pending", "Statuses of WsRoutes that are not yet as they should be", metrics.status_pending.get())?;
        page.outcomes("events", "Events about WsRoutes, Services and Pods", &metrics.events)?;
        page.outcomes("deletion_cost_writes", "Writes of what it costs to delete a Pod", &metrics.deletion_cost_writes)?;
        page.family(
            "replica_drain_deadline",
            "When this replica, told to end, cuts what is still open, since the Unix epoch; 0 before",
            Some(&Unit::Seconds),
            MetricType::Gauge,
        )?
        .0
        .encode_gauge(&metrics.replica_drain_deadline.get())?;
        page.gauge("connections_open", "Client connections open", metrics.connections_open.get())?;
        page.gauge("connections_limit", "Client connections at which accepting pauses", metrics.connections_limit.get())?;
        page.counter("connections_accepted", "Client connections accepted", metrics.connections_accepted.get())?;
        page.tally("connections_refused", "Client connections closed before a request", &metrics.connections_refused)?;
        page.tally("accept_pauses", "Times that accepting stopped", &metrics.accept_pauses)?;
        page.counter("access_log_dropped", "Lines of the access log that nobody took in time", metrics.access_log_dropped.get())
    }

    fn watches(&self, page: &mut Page<'_>) -> Result<(), Error> {
        let watches = self.metrics.watches();
        let each = |print: &mut Print<'_>| {
            watches.iter().try_for_each(|((kind, namespace), watch)| print([("kind", *kind), ("namespace", &**namespace)], watch))
        };
        page.gauges("watch_up", "Whether a kind is listed and watched; an empty namespace is all of them", None, |series| {
            each(&mut |labels, watch| series.gauge(&labels, watch.up.get()))
        })?;
        page.gauges("watch_objects", "Objects of a watched kind", None, |series| {
            each(&mut |labels, watch| series.gauge(&labels, watch.objects.get()))
        })?;
        page.counters("watch_events", "Changes that the API server told", None, |series| {
            each(&mut |labels, watch| series.counter(&labels, watch.events.get()))
        })?;
        page.counters("watch_lists", "Full lists that were read", None, |series| {
            each(&mut |labels, watch| series.counter(&labels, watch.lists.get()))
        })?;
        page.counters("watch_errors", "Lists and watches that failed", None, |series| {
            each(&mut |[kind, namespace], watch| {
                watch.errors.iter().try_for_each(|(reason, count)| series.counter(&[kind, namespace, ("reason", reason)], count))
            })
        })?;
        let mut series = page.family(
            "config_apply",
            "From the first of some changes to the configuration that has them",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        let lanes = [("routes", &self.metrics.routes_applied), ("endpoints", &self.metrics.endpoints_applied)];
        lanes.into_iter().try_for_each(|(lane, Applied(histogram))| {
            series.histogram(&[("lane", lane)], histogram.sum_seconds(), histogram.count(), &histogram.buckets())
        })
    }

    fn observed(&self, page: &mut Page<'_>) -> Result<(), Error> {
        page.gauges("tunnels_open", "Tunnels open", None, |series| {
            self.observed.tunnels.iter().try_for_each(|OpenTunnels { labels, count }| {
                let [namespace, route, location] = location_labels(&labels.location);
                let service = [("service_namespace", &*labels.service_namespace), ("service", &*labels.service)];
                match &labels.endpoint_pod {
                    Some(pod) => {
                        series.gauge(&[namespace, route, location, service[0], service[1], ("endpoint_pod", &**pod)], signed(*count))
                    }
                    None => series.gauge(&[namespace, route, location, service[0], service[1]], signed(*count)),
                }
            })
        })?;
        page.gauges("drains_pending", "Tunnels that were ordered to close and have not had their turn", None, |series| {
            self.observed.drains_pending.iter().try_for_each(|(reason, count)| series.gauge(&[("reason", reason)], signed(*count)))
        })?;
        page.gauges("endpoint_connections_limit", "This replica's part of loadBalancing.maxConnectionsPerEndpoint", None, |series| {
            let mut limits = self.observed.endpoint_limits.iter();
            limits.try_for_each(|(labels, limit)| series.gauge(&location_labels(labels), signed(*limit)))
        })?;
        page.counter("tunnel_panics", "Tunnels that a fault of the proxy ended", self.observed.tunnel_panics)?;
        page.gauges("certificate_expiry_timestamp", "End of a served certificate, since the Unix epoch", Some(&Unit::Seconds), |series| {
            self.observed
                .certificates
                .iter()
                .try_for_each(|cert| series.gauge(&[("namespace", &*cert.namespace), ("secret", &*cert.secret)], cert.not_after))
        })?;
        page.gauges("pool_endpoints", "Endpoints of a pool by what they may be given", None, |series| {
            self.observed.pools.iter().try_for_each(|pool| {
                let states = [("ready", pool.ready), ("draining", pool.draining), ("not_ready", pool.not_ready)];
                states.iter().try_for_each(|(state, count)| series.gauge(&[("pool", &*pool.pool), ("state", *state)], signed(*count)))
            })
        })?;
        page.gauges(
            "pool_endpoints_unhealthy",
            "Ready endpoints of a pool that get no requests while others can, by why",
            None,
            |series| {
                self.observed.pools.iter().try_for_each(|pool| {
                    let causes = [("resting", pool.resting), ("failing", pool.failing)];
                    causes.iter().try_for_each(|(cause, count)| series.gauge(&[("pool", &*pool.pool), ("cause", *cause)], signed(*count)))
                })
            },
        )?;
        page.tally(
            "endpoint_ejections",
            "Endpoints taken out because they are ill, trials that failed included",
            &self.metrics.endpoint_ejections,
        )?;
        page.outcomes("health_checks", "Active health checks by what they found", &self.metrics.health_checks)
    }

    fn requests(&self, page: &mut Page<'_>) -> Result<(), Error> {
        page.counters("requests", "Answers by class of their status; 1xx are WebSocket and other upgrades", None, |series| {
            self.each_location_and_unrouted(|[a, b, c], metrics| {
                (1..=5).filter(|class| metrics.requests.get(*class) > 0).try_for_each(|class| {
                    let status = ["1xx", "2xx", "3xx", "4xx", "5xx"][usize::from(class) - 1];
                    series.counter(&[a, b, c, ("status", status)], metrics.requests.get(class))
                })
            })
        })?;
        self.by_reason(page, "refusals", "Answers of our own that refuse, by the token of X-Carrick-Reason", |metrics| &metrics.refusals)?;
        self.by_reason(page, "endpoint_failures", "Endpoints that were passed over or answered badly", |metrics| {
            &metrics.endpoint_failures
        })?;
        page.counters("retries", "What was tried again, why, and what came of it", None, |series| {
            self.each_location(|[a, b, c], metrics| {
                let mut cells = metrics.retries.iter();
                cells.try_for_each(|(reason, result, count)| series.counter(&[a, b, c, ("reason", reason), ("result", result)], count))
            })
        })?;
        page.gauges("handshakes_held", "Handshakes that wait while no endpoint is ready", None, |series| {
            self.each_location(|labels, metrics| match metrics.handshakes_held.get() {
                0 => Ok(()),
                held => series.gauge(&labels, held),
            })
        })?;
        self.durations(page, "handshake", "From the head of a handshake to its 101", |metrics| &metrics.handshake_seconds)?;
        self.durations(page, "response", "From the head of a plain request to the head of its answer", |metrics| &metrics.response_seconds)
    }

    fn tunnels(&self, page: &mut Page<'_>) -> Result<(), Error> {
        self.durations(page, "ping_rtt", "From a Ping of ours to its Pong", |metrics| &metrics.ping_rtt_seconds)?;
        self.durations(page, "tunnel_age", "Life of a tunnel, counted at its end", |metrics| &metrics.tunnel_age_seconds)?;
        page.counters("closes", "Close frames by code, the side that saw it and who began", None, |series| {
            self.each_location(|[a, b, c], metrics| {
                metrics.closes.iter().try_for_each(|(code, side, initiator, count)| {
                    series.counter(&[a, b, c, ("code", code), ("side", side.label()), ("initiator", initiator.label())], count)
                })
            })
        })?;
        self.by_reason(page, "tunnel_ends", "Tunnels that ended, by why", |metrics| &metrics.tunnel_ends)?;
        self.by_reason(page, "tunnel_unclean_ends", "Tunnels that ended without a closing handshake", |metrics| &metrics.unclean_ends)?;
        self.by_opcode(page, "tunnel_frames", "Frames passed on", None, |metrics, direction| match direction {
            "to_backend" => &metrics.frames_to_backend,
            _ => &metrics.frames_to_client,
        })?;
        self.by_opcode(page, "tunnel", "Bytes passed on", Some(&Unit::Bytes), |metrics, direction| match direction {
            "to_backend" => &metrics.bytes_to_backend,
            _ => &metrics.bytes_to_client,
        })
    }

    fn by_reason(&self, page: &mut Page<'_>, name: &str, help: &str, tally: impl Fn(&LocationMetrics) -> &Tally) -> Result<(), Error> {
        page.counters(name, help, None, |series| {
            self.each_location_and_unrouted(|[a, b, c], metrics| {
                tally(metrics).iter().try_for_each(|(reason, count)| series.counter(&[a, b, c, ("reason", reason)], count))
            })
        })
    }

    fn by_opcode(
        &self,
        page: &mut Page<'_>,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        of: impl for<'a> Fn(&'a LocationMetrics, &str) -> &'a ByOpcode,
    ) -> Result<(), Error> {
        page.counters(name, help, unit, |series| {
            self.each_location(|[a, b, c], metrics| {
                let cells = ["to_backend", "to_client"].into_iter().flat_map(|direction| Opcode::ALL.map(|opcode| (direction, opcode)));
                cells
                    .map(|(direction, opcode)| (direction, opcode, of(metrics, direction).get(opcode)))
                    .filter(|cell| cell.2 > 0)
                    .try_for_each(|(direction, opcode, count)| {
                        series.counter(&[a, b, c, ("opcode", opcode.label()), ("direction", direction)], count)
                    })
            })
        })
    }

    fn durations<const N: usize>(
        &self,
        page: &mut Page<'_>,
        name: &str,
        help: &str,
        histogram: impl Fn(&LocationMetrics) -> &Histogram<N>,
    ) -> Result<(), Error> {
        let mut series = page.family(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
        self.each_location(|labels, metrics| {
            let histogram = histogram(metrics);
            match histogram.count() {
                0 => Ok(()),
                count => series.histogram(&labels, histogram.sum_seconds(), count, &histogram.buckets()),
            }
        })
    }

    fn each_location<'a>(&'a self, mut print: impl FnMut([Label<'a>; 3], &LocationMetrics) -> Result<(), Error>) -> Result<(), Error> {
        self.locations.iter().try_for_each(|(labels, metrics)| print(location_labels(labels), metrics))
    }

    fn each_location_and_unrouted<'a>(
        &'a self,
        mut print: impl FnMut([Label<'a>; 3], &LocationMetrics) -> Result<(), Error>,
    ) -> Result<(), Error> {
        print([("route_namespace", ""), ("route", ""), ("location", "")], &self.metrics.unrouted)?;
        self.each_location(print)
    }
}

type Label<'a> = (&'static str, &'a str);
/// Prints the series of a watch.
type Print<'a> = dyn FnMut([Label<'_>; 2], &WatchMetrics) -> Result<(), Error> + 'a;

fn location_labels(labels: &LocationLabels) -> [Label<'_>; 3] {
    [("route_namespace", &*labels.route_namespace), ("route", &*labels.route), ("location", &*labels.location)]
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// The encoder, one family after the other.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn family<'s>(&'s mut self, name: &'s str, help: &str, unit: Option<&'s Unit>, kind: MetricType) -> Result<Series<'s>, Error> {
        self.0.encode_descriptor(name, help, unit, kind).map(Series)
    }

    fn counter(&mut self, name: &str, help: &str, count: u64) -> Result<(), Error> {
        self.family(name, help, None, MetricType::Counter)?.0.encode_counter::<NoLabelSet, _, u64>(&count, None)
    }

    fn gauge(&mut self, name: &str, help: &str, value: i64) -> Result<(), Error> {
        self.family(name, help, None, MetricType::Gauge)?.0.encode_gauge(&value)
    }

    fn tally(&mut self, name: &str, help: &str, tally: &Tally) -> Result<(), Error> {
        self.tally_by("reason", name, help, tally)
    }

    fn outcomes(&mut self, name: &str, help: &str, tally: &Tally) -> Result<(), Error> {
        self.tally_by("result", name, help, tally)
    }

    fn tally_by(&mut self, label: &'static str, name: &str, help: &str, tally: &Tally) -> Result<(), Error> {
        let mut series = self.family(name, help, None, MetricType::Counter)?;
        tally.iter().try_for_each(|(value, count)| series.counter(&[(label, value)], count))
    }

    fn counters(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        print: impl FnOnce(&mut Series<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        print(&mut self.family(name, help, unit, MetricType::Counter)?)
    }

    fn gauges(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        print: impl FnOnce(&mut Series<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        print(&mut self.family(name, help, unit, MetricType::Gauge)?)
    }
}

/// The series of one family.
struct Series<'a>(MetricEncoder<'a>);

impl Series<'_> {
    fn counter<const N: usize>(&mut self, labels: &[(&str, &str); N], count: u64) -> Result<(), Error> {
        self.0.encode_family(labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)
    }

    fn gauge<const N: usize>(&mut self, labels: &[(&str, &str); N], value: i64) -> Result<(), Error> {
        self.0.encode_family(labels)?.encode_gauge(&value)
    }

    fn histogram<const N: usize>(&mut self, labels: &[(&str, &str); N], sum: f64, count: u64, buckets: &[(f64, u64)]) -> Result<(), Error> {
        self.0.encode_family(labels)?.encode_histogram::<NoLabelSet>(sum, count, buckets, None)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::telemetry::metrics::{CertificateExpiry, Initiator, PoolSize, Side, TunnelLabels};
    use crate::telemetry::retries::{Retried, Retry};

    #[test]
    fn every_family_is_printed_under_its_promised_name() {
        let metrics = Arc::<Metrics>::default();
        let location = metrics.location("default", "chat", "/ws\"app");
        location.requests.inc(101);
        location.refusals.inc("no_ready_endpoint");
        location.endpoint_failures.inc("refused");
        location.retries.inc(Retried::Cut, Retry::Ok);
        location.handshakes_held.inc();
        location.handshake_seconds.observe(Duration::from_millis(2));
        location.response_seconds.observe(Duration::from_secs(100));
        location.tunnel_age_seconds.observe(Duration::from_secs(3600));
        location.closes.inc(Some(1012), Side::Client, Initiator::Proxy);
        location.tunnel_ends.inc("pod_terminating");
        location.unclean_ends.inc("mid_frame");
        location.frames_to_client.add(Opcode::Text, 3);
        location.bytes_to_backend.add(Opcode::Binary, 70);
        metrics.unrouted.requests.inc(404);
        metrics.connections_refused.inc("tls_handshake");
        metrics.accept_pauses.inc("descriptors");
        metrics.replica_drain_deadline.set(1_800_000_000);
        metrics.endpoint_ejections.inc("server_error");
        metrics.health_checks.inc("well");
        let labels = LocationLabels { route_namespace: "default".into(), route: "chat".into(), location: "/ws".into() };
        let to = |endpoint_pod: Option<&str>| TunnelLabels {
            location: labels.clone(),
            service_namespace: "default".into(),
            service: "chat".into(),
            endpoint_pod: endpoint_pod.map(Into::into),
        };
        let tunnels = vec![OpenTunnels { labels: to(Some("chat-0")), count: 7 }, OpenTunnels { labels: to(None), count: 8 }];
        let observed = Observed {
            tunnels,
            drains_pending: [("pod_terminating", 4)].into(),
            tunnel_panics: 1,
            certificates: vec![CertificateExpiry { namespace: "default".into(), secret: "shop".into(), not_after: 1_800_000_000 }],
            pools: vec![PoolSize { pool: "default/chat:80".into(), ready: 2, draining: 1, not_ready: 0, resting: 1, failing: 0 }],
            endpoint_limits: vec![(metrics.locations()[0].0.clone(), 334)],
        };
        let page = expose(&metrics, observed).unwrap();
        let at = r#"route_namespace="default",route="chat",location="/ws\"app""#;
        for line in [
            format!("carrick_requests_total{{{at},status=\"1xx\"}} 1"),
            r#"carrick_requests_total{route_namespace="",route="",location="",status="4xx"} 1"#.into(),
            format!("carrick_refusals_total{{{at},reason=\"no_ready_endpoint\"}} 1"),
            format!("carrick_endpoint_failures_total{{{at},reason=\"refused\"}} 1"),
            format!("carrick_retries_total{{{at},reason=\"cut\",result=\"ok\"}} 1"),
            format!("carrick_handshakes_held{{{at}}} 1"),
            format!("carrick_handshake_seconds_bucket{{le=\"0.003\",{at}}} 1"),
            format!("carrick_response_seconds_bucket{{le=\"30.0\",{at}}} 0"),
            format!("carrick_response_seconds_bucket{{le=\"+Inf\",{at}}} 1"),
            format!("carrick_tunnel_age_seconds_sum{{{at}}} 3600.0"),
            format!("carrick_closes_total{{{at},code=\"1012\",side=\"client\",initiator=\"proxy\"}} 1"),
            format!("carrick_tunnel_unclean_ends_total{{{at},reason=\"mid_frame\"}} 1"),
            format!("carrick_tunnel_frames_total{{{at},opcode=\"text\",direction=\"to_client\"}} 3"),
            format!("carrick_tunnel_bytes_total{{{at},opcode=\"binary\",direction=\"to_backend\"}} 70"),
            "carrick_connections_refused_total{reason=\"tls_handshake\"} 1".into(),
            "carrick_accept_pauses_total{reason=\"descriptors\"} 1".into(),
            "carrick_connections_open 0".into(),
            "carrick_generation 0".into(),
            "carrick_learned_sessions 0".into(),
            "carrick_learned_sessions_limit 0".into(),
            "carrick_learned_sessions_evicted_total 0".into(),
            format!("carrick_endpoint_connections_limit{{{at}}} 334"),
            "carrick_tunnel_panics_total 1".into(),
            r#"carrick_tunnels_open{route_namespace="default",route="chat",location="/ws",service_namespace="default",service="chat",endpoint_pod="chat-0"} 7"#.into(),
            r#"carrick_tunnels_open{route_namespace="default",route="chat",location="/ws",service_namespace="default",service="chat"} 8"#.into(),
            format!("carrick_tunnel_ends_total{{{at},reason=\"pod_terminating\"}} 1"),
            "carrick_replica_drain_deadline_seconds 1800000000".into(),
            r#"carrick_drains_pending{reason="pod_terminating"} 4"#.into(),
            r#"carrick_certificate_expiry_timestamp_seconds{namespace="default",secret="shop"} 1800000000"#.into(),
            r#"carrick_pool_endpoints{pool="default/chat:80",state="ready"} 2"#.into(),
            r#"carrick_pool_endpoints_unhealthy{pool="default/chat:80",cause="resting"} 1"#.into(),
            "carrick_endpoint_ejections_total{reason=\"server_error\"} 1".into(),
            "carrick_health_checks_total{result=\"well\"} 1".into(),
        ] {
            assert!(page.lines().any(|printed| printed == line), "{line}\nnot in\n{page}");
        }
        assert!(page.ends_with("# EOF\n"));
    }
}
