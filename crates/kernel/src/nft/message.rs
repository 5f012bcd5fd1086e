//! The numbers of nf_tables messages (linux/netfilter/nf_tables.h), and how a message begins.

use strait_host::nft::{TableFamily, TableId};

use crate::wire::Request;

/// Length of `struct nfgenmsg`.
pub(super) const FIXED: usize = 4;

/// `NFT_MSG_*`.
pub(super) const NEW_TABLE: i32 = 0;
pub(super) const GET_TABLE: i32 = 1;
pub(super) const DELETE_TABLE: i32 = 2;
pub(super) const NEW_CHAIN: i32 = 3;
pub(super) const GET_CHAIN: i32 = 4;
pub(super) const DELETE_CHAIN: i32 = 5;
pub(super) const NEW_RULE: i32 = 6;
pub(super) const GET_RULE: i32 = 7;
pub(super) const DELETE_RULE: i32 = 8;
pub(super) const NEW_SET: i32 = 9;
pub(super) const GET_SET: i32 = 10;
pub(super) const NEW_ELEMENTS: i32 = 12;
pub(super) const GET_ELEMENTS: i32 = 13;
pub(super) const DELETE_ELEMENTS: i32 = 14;
pub(super) const GET_GENERATION: i32 = 16;

/// `NFTA_GEN_ID`.
pub(super) const GENERATION_ID: u16 = 1;

/// `NFTA_TABLE_*`.
pub(super) const TABLE_NAME: u16 = 1;
pub(super) const TABLE_FLAGS: u16 = 2;
pub(super) const TABLE_USERDATA: u16 = 6;

/// `NFTA_CHAIN_*`, `NFTA_HOOK_*`.
pub(super) const CHAIN_TABLE: u16 = 1;
pub(super) const CHAIN_NAME: u16 = 3;
pub(super) const CHAIN_HOOK: u16 = 4;
pub(super) const CHAIN_POLICY: u16 = 5;
pub(super) const CHAIN_TYPE: u16 = 7;
pub(super) const HOOK_NUMBER: u16 = 1;
pub(super) const HOOK_PRIORITY: u16 = 2;

/// `NFTA_RULE_*`.
pub(super) const RULE_TABLE: u16 = 1;
pub(super) const RULE_CHAIN: u16 = 2;
pub(super) const RULE_HANDLE: u16 = 3;
pub(super) const RULE_EXPRESSIONS: u16 = 4;
pub(super) const RULE_POSITION: u16 = 6;
pub(super) const RULE_USERDATA: u16 = 7;

/// `NFTA_LIST_ELEM`.
pub(super) const LIST_ELEMENT: u16 = 1;

/// `NFTA_DATA_*`.
pub(super) const DATA_VALUE: u16 = 1;
pub(super) const DATA_VERDICT: u16 = 2;

/// `NFTA_SET_*`.
pub(super) const SET_TABLE: u16 = 1;
pub(super) const SET_NAME: u16 = 2;
pub(super) const SET_FLAGS: u16 = 3;
pub(super) const SET_KEY_TYPE: u16 = 4;
pub(super) const SET_KEY_LENGTH: u16 = 5;
pub(super) const SET_DATA_TYPE: u16 = 6;
pub(super) const SET_DATA_LENGTH: u16 = 7;
pub(super) const SET_ID: u16 = 10;
pub(super) const SET_USERDATA: u16 = 13;

/// `NFTA_SET_ELEM_LIST_*`, `NFTA_SET_ELEM_*`.
pub(super) const LIST_TABLE: u16 = 1;
pub(super) const LIST_SET: u16 = 2;
pub(super) const LIST_ELEMENTS: u16 = 3;
pub(super) const ELEMENT_KEY: u16 = 1;
pub(super) const ELEMENT_DATA: u16 = 2;
pub(super) const ELEMENT_FLAGS: u16 = 3;

/// `NFPROTO_*` of a table.
pub(super) fn family(family: TableFamily) -> u8 {
    match family {
        TableFamily::Inet => libc::NFPROTO_INET as u8,
        TableFamily::Ip => libc::NFPROTO_IPV4 as u8,
        TableFamily::Ip6 => libc::NFPROTO_IPV6 as u8,
    }
}

/// A message of nf_tables about something in a table.
pub(super) fn begin(kind: i32, flags: i32, table: &TableId) -> Request {
    let header = [family(table.family), libc::NFNETLINK_V0 as u8, 0, 0];
    Request::new(number(kind), flags, &header)
}

/// A message type with its subsystem.
pub(super) fn number(kind: i32) -> u16 {
    (libc::NFNL_SUBSYS_NFTABLES << 8 | kind) as u16
}
