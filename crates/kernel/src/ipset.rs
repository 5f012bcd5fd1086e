//! Sets of ipset, over nfnetlink: whether one is there, and its end.

use nix::errno::Errno;

use crate::error::{Error, tolerate};
use crate::socket::Socket;
use crate::wire::Request;

/// `IPSET_CMD_*` in linux/netfilter/ipset/ip_set.h.
const DESTROY: u16 = 3;
const HEADER: u16 = 12;
/// `IPSET_ATTR_PROTOCOL`, `IPSET_ATTR_SETNAME`.
const PROTOCOL: u16 = 1;
const NAME: u16 = 2;
/// `IPSET_PROTOCOL_MIN`: every kernel takes it for these commands.
const VERSION: u8 = 6;

/// Whether there is a set of this name. A kernel into which ipset is not loaded has none, and is not asked: it would load it.
pub(crate) fn exists(socket: &mut Socket, name: &str) -> Result<bool, Error> {
    if !std::path::Path::new("/sys/module/ip_set").exists() {
        return Ok(false);
    }
    let answer = socket.tell(about(HEADER, name), &format_args!("look up ipset {name}"));
    match answer {
        Ok(()) => Ok(true),
        Err(Error::Kernel {
            errno: Errno::ENOENT,
            ..
        }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes a set, which no rule may refer to; that it is gone already is fine.
pub(crate) fn destroy(socket: &mut Socket, name: &str) -> Result<(), Error> {
    let answer = socket.tell(about(DESTROY, name), &format_args!("remove ipset {name}"));
    tolerate(answer, &[Errno::ENOENT])
}

fn about(command: u16, name: &str) -> Request {
    let number = (libc::NFNL_SUBSYS_IPSET as u16) << 8 | command;
    let header = [libc::AF_INET as u8, libc::NFNETLINK_V0 as u8, 0, 0];
    let mut request = Request::new(number, 0, &header);
    request.u8(PROTOCOL, VERSION).text(NAME, name);
    request
}
