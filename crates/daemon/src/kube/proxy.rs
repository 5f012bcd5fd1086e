//! Proxies by which servers outside are reached, where the variables of a process or a kubeconfig name them.

use std::path::PathBuf;
use std::sync::Arc;

use http::Uri;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};

use crate::Settings;
use crate::settings::Noted;

/// Which proxy leads to which server, by `HTTPS_PROXY` and `NO_PROXY`; none by default.
#[derive(Debug, Clone, Default)]
pub struct Proxies(Option<Arc<Matcher>>);

impl Proxies {
    /// Reads `HTTPS_PROXY` and `NO_PROXY`.
    ///
    /// # Errors
    /// [`Noted`] if the former is no URL of a proxy that we can use.
    pub fn read(settings: &mut Settings) -> Result<Self, Noted> {
        let no = settings.optional_text("NO_PROXY");
        let Some(proxy) = settings.secret("HTTPS_PROXY")? else {
            return Ok(Self::default());
        };
        match Self::new(proxy.expose(), &no?.unwrap_or_default()) {
            Ok(proxies) => Ok(proxies),
            Err(problem) => Err(settings.note("HTTPS_PROXY", problem)),
        }
    }

    /// The proxy for all servers but those in `no`, a list of names, addresses and CIDRs.
    ///
    /// # Errors
    /// What is wrong with it, without its text: there may be a password in it.
    pub fn new(proxy: &str, no: &str) -> Result<Self, &'static str> {
        let proxy = proxy.trim();
        if proxy.is_empty() {
            return Ok(Self::default());
        }
        let url = if proxy.contains("://") {
            proxy.to_owned()
        } else {
            format!("http://{proxy}")
        };
        let Ok(uri) = url.parse::<Uri>() else {
            return Err("is no URL");
        };
        if uri.scheme_str() != Some("http") {
            return Err("is of a kind that is not supported");
        }
        if uri.host().is_none_or(str::is_empty) {
            return Err("names no host");
        }
        let matcher = Matcher::builder().https(url).no(no.to_owned()).build();
        Ok(Self(Some(Arc::new(matcher))))
    }

    /// The proxy by which a server is reached. This host itself never is by one (as Go's `ProxyFromEnvironment` has it).
    pub(super) fn of(&self, server: &Uri) -> Option<Intercept> {
        let host = server.host()?.trim_start_matches('[').trim_end_matches(']');
        let address = host.parse::<std::net::IpAddr>();
        if host == "localhost" || address.is_ok_and(|ip| ip.is_loopback()) {
            return None;
        }
        self.0.as_ref()?.intercept(server)
    }
}

/// How the API server of a process's own cluster is reached.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// The kubeconfig; `None` for the service account of the pod.
    pub kubeconfig: Option<PathBuf>,
    /// The proxies, where the kubeconfig names none of its own.
    pub proxies: Proxies,
}

impl Access {
    /// Reads `KUBECONFIG`, `HTTPS_PROXY` and `NO_PROXY`.
    ///
    /// # Errors
    /// [`Noted`] if any of them is wrong.
    pub fn read(settings: &mut Settings) -> Result<Self, Noted> {
        let kubeconfig = settings.optional("KUBECONFIG", str::parse::<PathBuf>);
        let proxies = Proxies::read(settings);
        Ok(Self {
            kubeconfig: kubeconfig?.filter(|path| !path.as_os_str().is_empty()),
            proxies: proxies?,
        })
    }
}

impl From<PathBuf> for Access {
    fn from(kubeconfig: PathBuf) -> Self {
        Self {
            kubeconfig: Some(kubeconfig),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(proxies: &Proxies, server: &str) -> Option<String> {
        let intercept = proxies.of(&server.parse().unwrap());
        intercept.map(|it| it.uri().to_string())
    }

    #[test]
    fn a_proxy_is_for_all_but_this_host_and_those_that_are_named() {
        let no = "10.0.0.0/8, .svc,other.example,fd00::/8";
        let proxies = Proxies::new("proxy.example:3128", no).unwrap();
        let proxy = Some("http://proxy.example:3128/".to_owned());
        for server in [
            "https://broker.example:6443",
            "https://203.0.113.9",
            "https://[2001:db8::1]:6443",
        ] {
            assert_eq!(by(&proxies, server), proxy, "{server}");
        }
        for server in [
            "https://10.96.0.1",
            "https://kubernetes.default.svc",
            "https://api.other.example",
            "https://[fd00::1]:6443",
            "https://localhost:6443",
            "https://127.0.0.1:6443",
            "https://[::1]:6443",
        ] {
            assert_eq!(by(&proxies, server), None, "{server}");
        }
        assert_eq!(by(&Proxies::default(), "https://broker.example"), None);
        let none = Proxies::new(" \n", "").unwrap();
        assert_eq!(by(&none, "https://broker.example"), None);
    }

    #[test]
    fn what_is_no_proxy_for_us_is_refused_and_a_password_is_not_shown() {
        for (proxy, why) in [
            ("socks5://proxy.example:1080", "kind"),
            ("https://proxy.example", "kind"),
            ("http://a b", "URL"),
        ] {
            let error = Proxies::new(proxy, "").unwrap_err();
            assert!(error.contains(why), "{proxy}: {error}");
        }
        let proxies = Proxies::new("http://me:hidden@proxy.example:3128", "").unwrap();
        let access = Access {
            kubeconfig: None,
            proxies,
        };
        let shown = format!("{access:?}");
        assert!(
            shown.contains("proxy.example") && !shown.contains("hidden"),
            "{shown}"
        );
        let server = "https://broker.example".parse().unwrap();
        let auth = access.proxies.of(&server).unwrap();
        assert_eq!(auth.basic_auth().unwrap(), "Basic bWU6aGlkZGVu");
    }
}
