//! What Submariner leaves on the nodes of a lab, made and looked at with foreign tools.

use std::time::Duration;

use strait_lab::{Family, Lab};

/// One family's numbers: of cluster east, whose node 1 is the gateway, towards west.
pub(crate) struct Side {
    pub(crate) family: Family,
    ip: &'static str,
    pub(crate) device: &'static str,
    pub(crate) cable: &'static str,
    pods: &'static str,
    remotes: [&'static str; 2],
    /// Of clusters that have left: in the main table, and in that of a gateway.
    gone: [&'static str; 2],
    /// The gateway's and the worker's address, outside and inside.
    outer: [&'static str; 2],
    inner: [&'static str; 2],
    yesterday: &'static str,
    vteps: &'static str,
    length: u8,
    /// The gateways' addresses inside the cable, and the remote one's outside.
    cables: [&'static str; 2],
    pub(crate) remote: &'static str,
    scope: &'static str,
    nodad: &'static str,
    local: &'static str,
}

pub(crate) const V4: Side = Side {
    family: Family::V4,
    ip: "ip -4",
    device: "vx-submariner",
    cable: "vxlan-tunnel",
    pods: "10.101.0.0/16",
    remotes: ["10.102.0.0/16", "10.152.0.0/16"],
    gone: ["10.188.0.0/16", "10.187.0.0/16"],
    outer: ["172.30.1.11", "172.30.1.12"],
    inner: ["240.30.1.11", "240.30.1.12"],
    yesterday: "240.99.1.12",
    vteps: "240.0.0.0/8",
    length: 8,
    cables: ["241.30.1.11", "241.30.2.11"],
    remote: "172.30.2.11",
    scope: "scope link",
    nodad: "",
    local: "",
};

/// Upstream's devices with IPv6 outside have a source address.
pub(crate) const V6: Side = Side {
    family: Family::V6,
    ip: "ip -6",
    device: "vx-submariner-6",
    cable: "vxlan-tunnel-6",
    pods: "fd10:101::/48",
    remotes: ["fd10:102::/48", "fd10:152::/112"],
    gone: ["fd10:188::/48", "fd10:187::/48"],
    outer: ["fd00:30:1::1:11", "fd00:30:1::1:12"],
    inner: ["fd00:100:100::1:11", "fd00:100:100::1:12"],
    yesterday: "fd00:100:100::99:12",
    vteps: "fd00:100:100::/96",
    length: 96,
    cables: ["fd00:100:200::1:11", "fd00:100:200::2:11"],
    remote: "fd00:30:2::2:11",
    scope: "",
    nodad: "nodad",
    local: "local fd00:30:1::1:11",
};

pub(crate) fn shell(lab: &Lab, node: &str, script: &str) -> String {
    let said = lab.exec(node, &["sh", "-ec", script]);
    said.unwrap_or_else(|error| panic!("{node}: {error:#}\n{script}"))
}

/// Reads something while the agent is at work: a look at a ruleset that changes meanwhile may fail, and is taken again.
fn look(lab: &Lab, node: &str, script: &str) -> String {
    for _ in 0..20 {
        if let Ok(said) = lab.exec(node, &["sh", "-ec", script]) {
            return said;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    shell(lab, node, script)
}

impl Side {
    /// The tool of this family.
    fn tool(&self, iptables: &str) -> String {
        match self.family {
            Family::V4 => iptables.to_owned(),
            Family::V6 => iptables.replace("iptables", "ip6tables"),
        }
    }

    /// The CNI masquerades in the tables where Submariner writes too: what nftables masquerades of their own would never
    /// pass Submariner's way.
    pub(crate) fn masquerade(&self, lab: &Lab, node: &str, iptables: &str) {
        let (tool, pods) = (self.tool(iptables), self.pods);
        let table = match self.family {
            Family::V4 => "ip",
            Family::V6 => "ip6",
        };
        shell(
            lab,
            node,
            &format!(
                "
                {tool} -t nat -A POSTROUTING -s {pods} ! -d {pods} -j MASQUERADE
                nft delete table {table} cni
                "
            ),
        );
    }

    /// What Submariner's route agent and its packet filter put on every node.
    pub(crate) fn filter(&self, lab: &Lab, node: &str, iptables: &str, cni: &str) {
        let (tool, vteps, device) = (self.tool(iptables), self.vteps, self.device);
        let mut script = format!(
            "
            {tool} -t nat -N SUBMARINER-POSTROUTING
            {tool} -t nat -I POSTROUTING 1 -j SUBMARINER-POSTROUTING
            {tool} -t nat -A SUBMARINER-POSTROUTING -s {vteps} -o {device} -j SNAT --to-source {cni}
            {tool} -t filter -N SUBMARINER-INPUT
            {tool} -t filter -A INPUT -p udp -m udp -j SUBMARINER-INPUT
            {tool} -t filter -A SUBMARINER-INPUT -p udp -m udp --dport 4800 -j ACCEPT
            {tool} -t filter -N SUBMARINER-FORWARD
            {tool} -t filter -I FORWARD 1 -j SUBMARINER-FORWARD
            {tool} -t filter -A SUBMARINER-FORWARD -o {device} -j ACCEPT
            {tool} -t mangle -N SUBMARINER-POSTROUTING
            {tool} -t mangle -I POSTROUTING 1 -j SUBMARINER-POSTROUTING
            "
        );
        for remote in self.remotes {
            for (from, to) in [(self.pods, remote), (remote, self.pods)] {
                script += &format!(
                    "{tool} -t nat -A SUBMARINER-POSTROUTING -s {from} -d {to} -j ACCEPT\n"
                );
            }
        }
        if self.family == Family::V4 {
            script += "
                ipset create SUBMARINER-LOCALCIDRS hash:net
                ipset create SUBMARINER-REMOTECIDRS hash:net
                ipset add SUBMARINER-LOCALCIDRS 10.101.0.0/16
                ipset add SUBMARINER-REMOTECIDRS 10.102.0.0/16
                ";
            for (from, to) in [("LOCAL", "REMOTE"), ("REMOTE", "LOCAL")] {
                script += &format!(
                    "{tool} -t mangle -A SUBMARINER-POSTROUTING -p tcp -m tcp --tcp-flags SYN,RST SYN \
                     -m set --match-set SUBMARINER-{from}CIDRS src -m set --match-set SUBMARINER-{to}CIDRS dst -j TCPMSS --clamp-mss-to-pmtu\n"
                );
            }
        } else {
            script += "
                nft add table ip6 submariner-ipv6
                nft add chain ip6 submariner-ipv6 SUBMARINER-FORWARD
                ";
        }
        shell(lab, node, &script);
    }

    fn sysctls(&self) -> &'static str {
        match self.family {
            Family::V4 => {
                "
                sysctl -q net.ipv4.conf.vx-submariner.forwarding=1
                sysctl -q net.ipv4.conf.eth0.rp_filter=2
                "
            }
            Family::V6 => "",
        }
    }

    /// The worker as Submariner leaves it: the gateway's Ethernet address unknown, all flooded to it, and some things of
    /// yesterday: an address, a cluster that has left, a time as a gateway.
    pub(crate) fn worker(&self, lab: &Lab, cni: &str) {
        let Self {
            ip,
            device,
            remotes,
            gone,
            outer,
            inner,
            yesterday,
            length,
            scope,
            nodad,
            ..
        } = self;
        let ([gateway, _], [inner_gateway, own], [main, table]) = (outer, inner, gone);
        let sysctls = self.sysctls();
        let nets = remotes.join(" ");
        shell(
            lab,
            "east-2",
            &format!(
                "
                ip link add {device} type vxlan id 100 dstport 4800 nolearning remote {gateway}
                ip address add {own}/{length} dev {device} {nodad}
                ip address add {yesterday}/{length} dev {device} {nodad}
                ip link set {device} mtu 1450 up
                {sysctls}
                for net in {nets} {main}; do
                    {ip} route add $net via {inner_gateway} dev {device} proto static
                done
                {ip} rule add pref 150 lookup 150 protocol 0
                {ip} route add {table} dev eth0 {scope} src {cni} table 150 proto static
                "
            ),
        );
    }

    /// The gateway as Submariner leaves it, with its VXLAN cable's routes.
    pub(crate) fn gateway(&self, lab: &Lab, cni: &str) {
        let Self {
            ip,
            device,
            cable,
            remotes,
            outer,
            inner,
            cables,
            length,
            scope,
            nodad,
            local,
            ..
        } = self;
        let ([own, worker], [own_inner, _], [_, remote]) = (outer, inner, cables);
        let sysctls = self.sysctls();
        let loose = match self.family {
            Family::V4 => "sysctl -q net.ipv4.conf.vx-submariner.rp_filter=2",
            Family::V6 => "",
        };
        let nets = remotes.join(" ");
        shell(
            lab,
            "east-1",
            &format!(
                "
                ip link add {device} type vxlan id 100 dstport 4800 nolearning {local}
                ip address add {own_inner}/{length} dev {device} {nodad}
                ip link set {device} mtu 1450 up
                for node in {own} {worker}; do
                    bridge fdb append 00:00:00:00:00:00 dev {device} dst $node
                done
                {sysctls}
                {loose}
                {ip} rule add pref 100 lookup 100 protocol 0
                {ip} rule add pref 150 lookup 150 protocol 0
                for net in {nets}; do
                    {ip} route add $net via {remote} dev {cable} src {cni} table 100 proto static
                    {ip} route add $net dev eth0 {scope} src {cni} table 150 proto static
                done
                "
            ),
        );
    }

    /// The cable of Submariner's gateway in the place of ours: no Ethernet address of another gateway is known.
    pub(crate) fn cable(&self, lab: &Lab) {
        let Self {
            cable,
            cables,
            remote,
            length,
            nodad,
            local,
            ..
        } = self;
        let [own, _] = cables;
        shell(
            lab,
            "east-1",
            &format!(
                "
                ip link del {cable}
                ip link add {cable} type vxlan id 1000 dstport 4500 nolearning {local}
                ip address add {own}/{length} dev {cable} {nodad}
                ip link set {cable} mtu 1450 up
                bridge fdb append 00:00:00:00:00:00 dev {cable} dst {remote}
                "
            ),
        );
    }
}

/// All that is Submariner's on a node, as foreign tools show it, but for the devices, which are ours once they have our mark.
pub(crate) fn leftovers(lab: &Lab, node: &str) -> Vec<String> {
    let mut left = Vec::new();
    let mut say = |what: &str, text: &str, theirs: &dyn Fn(&str) -> bool| {
        let lines = text.lines().filter(|line| theirs(line));
        left.extend(lines.map(|line| format!("{what}: {line}")));
    };
    for tool in ["iptables", "ip6tables"] {
        for tool in [format!("{tool}-nft"), format!("{tool}-legacy")] {
            let text = look(lab, node, &format!("{tool}-save"));
            say(&tool, &text, &|line| line.contains("SUBMARINER"));
        }
    }
    say("ipset", &look(lab, node, "ipset list -n"), &|line| {
        line.contains("SUBMARINER")
    });
    say("nftables", &look(lab, node, "nft list tables"), &|line| {
        line.contains("submariner")
    });
    for ip in ["ip -4", "ip -6"] {
        say("rule", &look(lab, node, &format!("{ip} rule")), &|line| {
            (line.starts_with("150:") || line.starts_with("100:")) && !line.contains("proto 83")
        });
        for table in ["main", "100", "150"] {
            let show = format!("{ip} route show table {table} 2>/dev/null || true");
            say(
                &format!("table {table}"),
                &look(lab, node, &show),
                &|line| {
                    let device = line.contains("vx-submariner") || line.contains("vxlan-tunnel");
                    let of_kernel = line.contains("proto kernel") || line.contains("proto 83");
                    (device || table == "150") && !of_kernel
                },
            );
        }
    }
    say("address", &look(lab, node, "ip -o address show"), &|line| {
        [V4, V6].iter().any(|side| line.contains(side.yesterday))
    });
    left
}

/// All that is somebody else's.
pub(crate) fn others(lab: &Lab, node: &str) -> String {
    let text = look(
        lab,
        node,
        "
        iptables-nft-save; iptables-legacy-save; ip6tables-nft-save; ip6tables-legacy-save
        ipset save; nft list tables; ip rule; ip -6 rule; ip route show table 151
        ip route show proto static; ip -6 route show proto static
        ",
    );
    let other = |line: &&str| {
        let ours = ["strait", "proto 83", "SUBMARINER", "submariner"];
        let rules = ["#", "150:", "100:"];
        !rules.iter().any(|mark| line.starts_with(mark))
            && !ours.iter().any(|mark| line.contains(mark))
    };
    // What the policies have counted changes all the time.
    let plain = |line: &str| {
        line.split(" [")
            .next()
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    let lines: Vec<String> = text.lines().filter(other).map(plain).collect();
    lines.join("\n")
}

/// Index and Ethernet address.
pub(crate) fn device(lab: &Lab, node: &str, name: &str) -> (String, String) {
    let show = |what: &str| {
        let path = format!("ip -j link show {name} | sed 's/.*\"{what}\":\"*\\([^,\"]*\\).*/\\1/'");
        shell(lab, node, &path)
    };
    (show("ifindex"), show("address"))
}
