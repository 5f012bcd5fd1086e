//! What travels: protobuf 3 without a frame (upstream `natdiscovery/proto/natdiscovery.proto`; the numbers and names are its).

use strait_host::Family;

/// A whole datagram.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Envelope {
    /// 1 in requests, 0 in responses; not looked at.
    #[prost(int32, tag = "1")]
    pub version: i32,
    #[prost(oneof = "Body", tags = "2, 3")]
    pub body: Option<Body>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum Body {
    #[prost(message, tag = "2")]
    Request(Request),
    #[prost(message, tag = "3")]
    Response(Response),
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Request {
    #[prost(uint64, tag = "1")]
    pub request_number: u64,
    #[prost(message, optional, tag = "2")]
    pub sender: Option<EndpointDetails>,
    #[prost(message, optional, tag = "3")]
    pub receiver: Option<EndpointDetails>,
    /// Where the sender sends it from, as the sender knows it.
    #[prost(message, optional, tag = "4")]
    pub using_src: Option<IpPort>,
    /// Where the sender sends it to.
    #[prost(message, optional, tag = "5")]
    pub using_dst: Option<IpPort>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Response {
    #[prost(uint64, tag = "1")]
    pub request_number: u64,
    #[prost(enumeration = "Verdict", tag = "2")]
    pub response: i32,
    #[prost(message, optional, tag = "3")]
    pub sender: Option<EndpointDetails>,
    #[prost(message, optional, tag = "4")]
    pub receiver: Option<EndpointDetails>,
    #[prost(bool, tag = "5")]
    pub src_ip_nat_detected: bool,
    #[prost(bool, tag = "6")]
    pub src_port_nat_detected: bool,
    #[prost(bool, tag = "7")]
    pub dst_ip_nat_detected: bool,
    /// Where the request came from.
    #[prost(message, optional, tag = "8")]
    pub received_src: Option<IpPort>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct EndpointDetails {
    #[prost(string, tag = "1")]
    pub cluster_id: String,
    /// The cable name, since Submariner 0.21 with the family behind it.
    #[prost(string, tag = "2")]
    pub endpoint_id: String,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct IpPort {
    #[prost(string, tag = "1")]
    pub ip: String,
    #[prost(int32, tag = "2")]
    pub port: i32,
}

/// What is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Verdict {
    /// The request came as it was sent.
    Ok = 0,
    /// Somebody in between rewrote an address or a port.
    NatDetected = 1,
    /// It is for another cluster.
    UnknownCluster = 2,
    /// It is for another gateway of this cluster; an answer to a name of the other dialect, too.
    UnknownEndpoint = 3,
    /// It lacks something.
    Malformed = 4,
}

impl Verdict {
    /// Its name, as a label of metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "Ok",
            Self::NatDetected => "NatDetected",
            Self::UnknownCluster => "UnknownCluster",
            Self::UnknownEndpoint => "UnknownEndpoint",
            Self::Malformed => "Malformed",
        }
    }
}

/// How an endpoint is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// By its cable name: Submariner before 0.21.
    Plain,
    /// By its cable name and the family, `…-v4`: since then.
    Suffixed,
}

impl Dialect {
    pub(super) const ALL: [Self; 2] = [Self::Suffixed, Self::Plain];

    /// The name of an endpoint.
    pub(super) fn name(self, cable: &str, family: Family) -> String {
        match (self, family) {
            (Self::Plain, _) => cable.to_owned(),
            (Self::Suffixed, Family::V4) => format!("{cable}-v4"),
            (Self::Suffixed, Family::V6) => format!("{cable}-v6"),
        }
    }

    /// In which of the two this is the name of an endpoint; `None` if it is another's, or of the other family.
    pub(super) fn of(name: &str, cable: &str, family: Family) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|dialect| name == dialect.name(cable, family))
    }
}
