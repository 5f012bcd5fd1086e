//! The vocabulary: custom resources, labels, ports and names.
//!
//! What others see (Submariner's agents, its tools, users) keeps Submariner's names; what is ours alone begins
//! with `strait`. The structs named `…Spec` and `…Status` are the JSON as it stands on the API server; the types
//! without that ending ([`Endpoint`], [`Cluster`], [`Node`]) are what they parse into, once, at the edge: past it
//! nothing is a string that means something.

pub mod cluster;
pub mod crd;
pub mod endpoint;
pub mod gateway;
pub mod id;
pub mod ip_pool;
pub mod names;
pub mod node;
pub mod object;
pub mod route_agent;
pub mod standby;
pub mod term;
pub mod vtep;

pub use cluster::{Cluster, ClusterSpec};
pub use crd::crds;
pub use endpoint::{Endpoint, EndpointSpec, OddSubnets, OtherKeys};
pub use id::{BadClusterId, ClusterId, valid_name};
pub use ip_pool::IpPool;
pub use node::Node;
pub use object::{Kind, Object, ObjectKey};
pub use standby::Standby;
pub use term::Term;
