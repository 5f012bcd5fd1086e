//! What a process on a node is told of its node and its cluster.

use ipnet::IpNet;
use strait_api::ClusterId;
use strait_api::names::NAMESPACE;

use crate::settings::Noted;
use crate::{Setting, Settings};

/// The settings that [`Member::read`] reads; they must be in the process's table.
pub static MEMBER: [Setting; 7] = [
    Setting::new(
        "NODE_NAME",
        "Name of the Node that this process runs on",
        "the name of a Node, such as worker-1",
    )
    .required(),
    Setting::new(
        "SUBMARINER_NAMESPACE",
        "Namespace of Strait's and Submariner's objects in this cluster",
        "the name of a namespace",
    )
    .default(NAMESPACE),
    Setting::new(
        "SUBMARINER_CLUSTERID",
        "Identifier of this cluster",
        "1 to 63 lower-case letters, digits and dashes, beginning and ending with a letter or digit",
    )
    .required(),
    Setting::new(
        "SUBMARINER_CLUSTERCIDR",
        "Pod CIDRs of this cluster",
        "prefixes separated by commas, such as 10.42.0.0/16",
    )
    .required(),
    Setting::new(
        "SUBMARINER_SERVICECIDR",
        "Service CIDRs of this cluster",
        "prefixes separated by commas, such as 10.43.0.0/16",
    ),
    Setting::new(
        "SUBMARINER_GLOBALCIDR",
        "Global CIDRs of this cluster; overlapping networks are not supported yet",
        "nothing",
    ),
    Setting::new(
        "SUBMARINER_NETWORKPLUGIN",
        "CNI plugin of this cluster, for information; what it has put on the host is what counts",
        "a name, such as calico",
    )
    .default("generic"),
];

/// A process's node and cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Name of the node.
    pub node: String,
    /// The host's name.
    pub hostname: String,
    /// Namespace of our objects.
    pub namespace: String,
    /// The cluster.
    pub cluster: ClusterId,
    /// Its pod CIDRs, at least one.
    pub cluster_cidrs: Vec<IpNet>,
    /// Its service CIDRs.
    pub service_cidrs: Vec<IpNet>,
}

impl Member {
    /// Reads the settings of [`MEMBER`].
    ///
    /// # Errors
    /// [`Noted`] if any of them is wrong; all are read first.
    pub fn read(s: &mut Settings) -> Result<Self, Noted> {
        let node = s.text("NODE_NAME");
        let namespace = s.text("SUBMARINER_NAMESPACE");
        let cluster = s.parse("SUBMARINER_CLUSTERID", str::parse::<ClusterId>);
        let cluster_cidrs = match s.list("SUBMARINER_CLUSTERCIDR", prefix) {
            Ok(cidrs) if cidrs.is_empty() => {
                Err(s.note("SUBMARINER_CLUSTERCIDR", "names no prefix"))
            }
            other => other,
        };
        let service_cidrs = s.list("SUBMARINER_SERVICECIDR", prefix);
        let global = match s.raw("SUBMARINER_GLOBALCIDR") {
            None | Some("") => Ok(()),
            Some(_) => Err(s.note(
                "SUBMARINER_GLOBALCIDR",
                "overlapping networks are not supported yet",
            )),
        };
        let hostname = hostname().ok_or_else(|| s.note("NODE_NAME", "the host name can't be read"));
        global?;
        Ok(Self {
            node: node?,
            hostname: hostname?,
            namespace: namespace?,
            cluster: cluster?,
            cluster_cidrs: cluster_cidrs?,
            service_cidrs: service_cidrs?,
        })
    }
}

/// The host's name.
#[must_use]
pub fn hostname() -> Option<String> {
    let name = nix::unistd::gethostname().ok()?.into_string().ok()?;
    Some(name).filter(|name| !name.is_empty())
}

fn prefix(text: &str) -> Result<IpNet, String> {
    let net: IpNet = text.parse().map_err(|_| format!("'{text}' is no prefix"))?;
    if net.prefix_len() == 0 {
        Err(format!("'{text}' is everything"))
    } else {
        Ok(net.trunc())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::command;

    /// Lists of prefixes as somebody may write them: refused with the text, or prefixes without host bits.
    #[test]
    fn no_list_of_prefixes_makes_the_settings_panic() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/settings");
        strait_fuzz::fuzz(corpus, 3000, |bytes| {
            let text = String::from_utf8_lossy(bytes).replace('\0', "0");
            let name = "SUBMARINER_CLUSTERCIDR";
            let matches = command("agent", "An agent", &MEMBER).get_matches_from(["agent"]);
            let environment = vec![(name.to_owned(), text.into())];
            let mut s = Settings::read_from(&matches, &MEMBER, environment);
            for net in s.list(name, prefix).into_iter().flatten() {
                assert_eq!(net, net.trunc());
                assert!(net.prefix_len() > 0);
            }
        });
    }
}
