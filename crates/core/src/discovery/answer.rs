//! Answers to others' requests.

use std::net::{IpAddr, SocketAddr};

use strait_host::Family;

use super::Own;
use super::message::{Dialect, EndpointDetails, IpPort, Request, Response, Verdict};

/// The answer to a request that came `from` somewhere, to our address `to` where that is known.
pub(super) fn answer(
    own: &Own,
    request: Request,
    from: SocketAddr,
    to: Option<IpAddr>,
) -> Response {
    let family = Family::of(from.ip());
    let rewritten = Rewritten::of(own, &request, from, to);
    let (verdict, dialect) = match (&request.sender, &request.receiver) {
        (Some(_), Some(receiver)) if request.using_src.is_some() && request.using_dst.is_some() => {
            let dialect = Dialect::of(&receiver.endpoint_id, &own.cable_name, family);
            let verdict = if receiver.cluster_id != own.cluster.as_str() {
                Verdict::UnknownCluster
            } else if dialect.is_none() {
                Verdict::UnknownEndpoint
            } else if rewritten.any() {
                Verdict::NatDetected
            } else {
                Verdict::Ok
            };
            (verdict, dialect)
        }
        _ => (Verdict::Malformed, None),
    };
    let known = matches!(verdict, Verdict::Ok | Verdict::NatDetected);
    // Peers that look up neither the sender nor the receiver of a response end without them (upstream
    // `natdiscovery/response_handle.go`), so both are always there.
    Response {
        request_number: request.request_number,
        response: verdict.into(),
        sender: Some(EndpointDetails {
            cluster_id: own.cluster.to_string(),
            endpoint_id: dialect
                .unwrap_or(Dialect::Plain)
                .name(&own.cable_name, family),
        }),
        receiver: Some(request.sender.unwrap_or_default()),
        src_ip_nat_detected: known && rewritten.src_ip,
        src_port_nat_detected: known && rewritten.src_port,
        dst_ip_nat_detected: known && rewritten.dst_ip,
        received_src: known.then(|| ip_port(from)),
    }
}

/// What was rewritten on the way of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rewritten {
    pub src_ip: bool,
    pub src_port: bool,
    pub dst_ip: bool,
}

impl Rewritten {
    fn of(own: &Own, request: &Request, from: SocketAddr, to: Option<IpAddr>) -> Self {
        let to = to.or_else(|| own.addresses.get(&Family::of(from.ip())).copied());
        let (src_ip, src_port) = source(request, from);
        let dst_ip = match (&request.using_dst, to) {
            (Some(said), Some(to)) => parsed(&said.ip) != Some(to),
            _ => false,
        };
        Self {
            src_ip,
            src_port,
            dst_ip,
        }
    }

    const fn any(self) -> bool {
        self.src_ip || self.src_port || self.dst_ip
    }
}

/// Whether a request's source address and port are others than its sender says.
pub(super) fn source(request: &Request, from: SocketAddr) -> (bool, bool) {
    let Some(said) = &request.using_src else {
        return (false, false);
    };
    // Who does not know its address says none.
    let ip = !said.ip.is_empty() && parsed(&said.ip) != Some(from.ip());
    (ip, said.port != i32::from(from.port()))
}

fn parsed(ip: &str) -> Option<IpAddr> {
    ip.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

/// As messages have it.
pub(super) fn ip_port(of: SocketAddr) -> IpPort {
    IpPort {
        ip: of.ip().to_string(),
        port: i32::from(of.port()),
    }
}
