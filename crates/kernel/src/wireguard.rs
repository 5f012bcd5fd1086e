//! WireGuard devices of the kernel, over generic netlink.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use netlink_sys::protocols::NETLINK_GENERIC;
use nix::errno::Errno;
use strait_host::Key;
use strait_host::wireguard::{Device, DevicePeer, Step};

use crate::error::Error;
use crate::socket::Socket;
use crate::wire::{Attrs, Message, Request, ip_of, u16_of, u32_of};

/// `GENL_ID_CTRL`, `CTRL_CMD_GETFAMILY`, `CTRL_ATTR_FAMILY_ID` and `_NAME` in linux/genetlink.h.
const CONTROL: u16 = 16;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
/// Length of `struct genlmsghdr`.
const FIXED: usize = 4;
/// What follows is from linux/wireguard.h: the family's name and version, `WG_CMD_*`.
const NAME: &str = "wireguard";
const VERSION: u8 = 1;
const GET_DEVICE: u8 = 0;
const SET_DEVICE: u8 = 1;
/// `WGDEVICE_A_*`.
const IF_NAME: u16 = 2;
const PRIVATE_KEY: u16 = 3;
const PUBLIC_KEY: u16 = 4;
const PORT: u16 = 6;
const MARK: u16 = 7;
const PEERS: u16 = 8;
/// `WGPEER_A_*` and `WGPEER_F_*`.
const PEER_KEY: u16 = 1;
const PEER_PRESHARED: u16 = 2;
const PEER_FLAGS: u16 = 3;
const PEER_ENDPOINT: u16 = 4;
const PEER_KEEPALIVE: u16 = 5;
const PEER_HANDSHAKE: u16 = 6;
const PEER_RECEIVED: u16 = 7;
const PEER_SENT: u16 = 8;
const PEER_ALLOWED: u16 = 9;
const REMOVE: u32 = 1;
const REPLACE_ALLOWED: u32 = 2;
/// `WGALLOWEDIP_A_*`.
const ALLOWED_FAMILY: u16 = 1;
const ALLOWED_IP: u16 = 2;
const ALLOWED_LENGTH: u16 = 3;
/// Prefixes in one message: an attribute holds 64 KiB, and one of them takes at most 44 bytes.
const CHUNK: usize = 1000;

/// Speaks to the kernel's WireGuard, in one network namespace.
#[derive(Debug)]
pub struct Wireguard {
    socket: Socket,
    family: u16,
}

impl Wireguard {
    /// For the network namespace of the calling thread; the kernel loads its module if it has one.
    ///
    /// # Errors
    /// [`Error::is_lacking`] if this kernel has no WireGuard.
    pub fn open() -> Result<Self, Error> {
        let mut socket = Socket::open(NETLINK_GENERIC)?;
        let mut request = Request::new(CONTROL, 0, &[GET_FAMILY, 1, 0, 0]);
        request.text(FAMILY_NAME, NAME);
        let answer = socket.ask(request, &"look for the kernel's WireGuard")?;
        let family = answer
            .iter()
            .find_map(|m| m.attrs(FIXED).find(FAMILY_ID).and_then(u16_of));
        match family {
            Some(family) => Ok(Self { socket, family }),
            None => Err(Error::Unsupported("WireGuard of the kernel".to_owned())),
        }
    }

    /// Reads a device; of its peers' preshared keys, whether they are this one.
    ///
    /// # Errors
    /// [`Error::NoLink`] if there is none of this name, else what the kernel says.
    pub fn read(&mut self, link: &str, preshared: &[u8; 32]) -> Result<Device, Error> {
        let mut request = self.request(GET_DEVICE);
        request.text(IF_NAME, link);
        let mut device = Device::default();
        // A peer with many prefixes goes on in the next message.
        let messages = self
            .socket
            .dump(&request, "WireGuard peers")
            .map_err(|error| missing(error, link))?;
        for message in &messages {
            decode(message, preshared, &mut device);
        }
        Ok(device)
    }

    /// Gives a device its private key, UDP port and mark.
    ///
    /// # Errors
    /// [`Error::NoLink`] if there is none of this name, else what the kernel says.
    pub fn set_up(
        &mut self,
        link: &str,
        private_key: &[u8; 32],
        port: u16,
        mark: u32,
    ) -> Result<(), Error> {
        let mut request = self.request(SET_DEVICE);
        request
            .text(IF_NAME, link)
            .attr(PRIVATE_KEY, private_key)
            .attr(PORT, &port.to_ne_bytes())
            .u32(MARK, mark);
        self.tell(request, link, "set up")
    }

    /// Takes one step towards what a device is to have; each holds or fails by itself. A peer that is set gets the
    /// preshared key, all zero for none.
    ///
    /// # Errors
    /// [`Error::NoLink`] if there is none of this name, else what the kernel says.
    pub fn take(&mut self, link: &str, step: &Step, preshared: &[u8; 32]) -> Result<(), Error> {
        match step {
            Step::Remove(key) => {
                let peer = |peer: &mut Request| {
                    peer.attr(PEER_KEY, &key.0).u32(PEER_FLAGS, REMOVE);
                };
                self.tell_peer(link, "remove a peer of", peer)
            }
            Step::Set {
                key,
                endpoint,
                keepalive,
                allowed,
                exactly,
            } => {
                let all: Vec<&IpNet> = allowed.iter().collect();
                let (first, rest) = all.split_at(all.len().min(CHUNK));
                let peer = |peer: &mut Request| {
                    peer.attr(PEER_KEY, &key.0).attr(PEER_PRESHARED, preshared);
                    if *exactly {
                        peer.u32(PEER_FLAGS, REPLACE_ALLOWED);
                    }
                    if let Some(endpoint) = endpoint {
                        peer.attr(PEER_ENDPOINT, &socket_address(*endpoint));
                    }
                    peer.attr(PEER_KEEPALIVE, &keepalive.to_ne_bytes());
                    encode_allowed(peer, first);
                };
                self.tell_peer(link, "set a peer of", peer)?;
                for chunk in rest.chunks(CHUNK) {
                    self.tell_peer(link, "give prefixes to a peer of", |peer| {
                        peer.attr(PEER_KEY, &key.0);
                        encode_allowed(peer, chunk);
                    })?;
                }
                Ok(())
            }
        }
    }

    fn request(&self, command: u8) -> Request {
        Request::new(self.family, 0, &[command, VERSION, 0, 0])
    }

    fn tell_peer(
        &mut self,
        link: &str,
        what: &str,
        peer: impl FnOnce(&mut Request),
    ) -> Result<(), Error> {
        let mut request = self.request(SET_DEVICE);
        request.text(IF_NAME, link);
        request.nest(PEERS, |peers| {
            peers.nest(0, peer);
        });
        self.tell(request, link, what)
    }

    fn tell(&mut self, request: Request, link: &str, what: &str) -> Result<(), Error> {
        let answer = self.socket.tell(request, &format_args!("{what} {link}"));
        answer.map_err(|error| missing(error, link))
    }
}

fn missing(error: Error, link: &str) -> Error {
    match error.errno() {
        Some(Errno::ENODEV) => Error::NoLink(link.to_owned()),
        _ => error,
    }
}

fn encode_allowed(peer: &mut Request, nets: &[&IpNet]) {
    peer.nest(PEER_ALLOWED, |all| {
        for net in nets {
            all.nest(0, |one| {
                let family = match net {
                    IpNet::V4(_) => libc::AF_INET,
                    IpNet::V6(_) => libc::AF_INET6,
                };
                one.attr(ALLOWED_FAMILY, &(family as u16).to_ne_bytes())
                    .ip(ALLOWED_IP, net.network())
                    .u8(ALLOWED_LENGTH, net.prefix_len());
            });
        }
    });
}

/// A `struct sockaddr_in` or `sockaddr_in6`.
fn socket_address(at: SocketAddr) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(28);
    match at {
        SocketAddr::V4(v4) => {
            bytes.extend((libc::AF_INET as u16).to_ne_bytes());
            bytes.extend(v4.port().to_be_bytes());
            bytes.extend(v4.ip().octets());
            bytes.extend([0; 8]);
        }
        SocketAddr::V6(v6) => {
            bytes.extend((libc::AF_INET6 as u16).to_ne_bytes());
            bytes.extend(v6.port().to_be_bytes());
            bytes.extend(v6.flowinfo().to_be_bytes());
            bytes.extend(v6.ip().octets());
            bytes.extend(v6.scope_id().to_ne_bytes());
        }
    }
    bytes
}

fn read_socket_address(bytes: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?);
    let ip = match i32::from(u16_of(bytes)?) {
        libc::AF_INET => {
            let octets: [u8; 4] = bytes.get(4..8)?.try_into().ok()?;
            IpAddr::V4(Ipv4Addr::from(octets))
        }
        libc::AF_INET6 => {
            let octets: [u8; 16] = bytes.get(8..24)?.try_into().ok()?;
            IpAddr::V6(Ipv6Addr::from(octets))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

fn key_of(bytes: &[u8]) -> Option<Key> {
    let key = <[u8; 32]>::try_from(bytes).ok()?;
    (key != [0; 32]).then_some(Key(key))
}

fn u64_of(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(..8)?.try_into().ok()?))
}

/// Adds what a message tells to what is known of a device.
pub(crate) fn decode(message: &Message, preshared: &[u8; 32], device: &mut Device) {
    let attrs = message.attrs(FIXED);
    let key = attrs.find(PUBLIC_KEY).and_then(key_of);
    // A private key goes with its public one, and is never kept here.
    device.public_key = key.or(device.public_key);
    device.port = attrs.find(PORT).and_then(u16_of).unwrap_or(device.port);
    device.mark = attrs.find(MARK).and_then(u32_of).unwrap_or(device.mark);
    for (_, attrs) in attrs.inside(PEERS).unwrap_or(Attrs(&[])) {
        let attrs = Attrs(attrs);
        let Some(key) = attrs.find(PEER_KEY).and_then(key_of) else {
            continue;
        };
        let peer = device.peers.entry(key).or_default();
        decode_peer(attrs, preshared, peer);
    }
}

fn decode_peer(attrs: Attrs<'_>, preshared: &[u8; 32], peer: &mut DevicePeer) {
    // A message that goes on with a peer's prefixes does not have it again.
    if let Some(key) = attrs.find(PEER_PRESHARED) {
        peer.shares = key == preshared;
    }
    let status = &mut peer.status;
    if let Some(bytes) = attrs.find(PEER_ENDPOINT) {
        status.endpoint = read_socket_address(bytes);
    }
    if let Some(seconds) = attrs.find(PEER_HANDSHAKE).and_then(u64_of) {
        status.handshake = (seconds > 0).then_some(seconds);
    }
    let number = |kind, have| attrs.find(kind).and_then(u64_of).unwrap_or(have);
    status.received = number(PEER_RECEIVED, status.received);
    status.sent = number(PEER_SENT, status.sent);
    if let Some(keepalive) = attrs.find(PEER_KEEPALIVE).and_then(u16_of) {
        peer.keepalive = keepalive;
    }
    for (_, attrs) in attrs.inside(PEER_ALLOWED).unwrap_or(Attrs(&[])) {
        let attrs = Attrs(attrs);
        let ip = attrs.find(ALLOWED_IP).and_then(ip_of);
        let length = attrs.find(ALLOWED_LENGTH).and_then(|l| l.first().copied());
        let net = ip
            .zip(length)
            .and_then(|(ip, len)| IpNet::new(ip, len).ok());
        peer.allowed.extend(net);
    }
}
