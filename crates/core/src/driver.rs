//! The drivers of cables: how the tunnels between gateways are made.

use strait_api::names::{CABLE_VXLAN, CABLE_WIREGUARD};

/// How tunnels are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// In clear.
    Vxlan,
    /// Encrypted, by the kernel or in this process.
    WireGuard,
}

impl Driver {
    /// Its name, as settings and Endpoints have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vxlan => "vxlan",
            Self::WireGuard => "wireguard",
        }
    }

    /// Its device of IPv4, as Endpoints name it.
    #[must_use]
    pub const fn device(self) -> &'static str {
        match self {
            Self::Vxlan => CABLE_VXLAN,
            Self::WireGuard => CABLE_WIREGUARD,
        }
    }
}

impl std::str::FromStr for Driver {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Vxlan, Self::WireGuard]
            .into_iter()
            .find(|driver| text.eq_ignore_ascii_case(driver.name()))
            .ok_or("is not a cable driver of this version; expected vxlan or wireguard")
    }
}
