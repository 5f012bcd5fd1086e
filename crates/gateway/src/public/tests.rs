//! Sites and API servers of the tests' own.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use kube::Config;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use strait_daemon::engine::channel;
use strait_host::Family;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use super::*;

/// Answers one request.
async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, status: &str, body: &str) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match stream.read(&mut byte).await {
            Ok(1) => request.extend(byte),
            _ => return,
        }
    }
    let length = body.len();
    let text = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    let _ = stream.write_all(text.as_bytes()).await;
    let _ = stream.shutdown().await;
}

/// A site that always answers so; its certificate too.
async fn site(status: &'static str, body: String) -> (SocketAddr, Vec<u8>) {
    site_called("127.0.0.1", status, body).await
}

async fn site_called(name: &str, status: &'static str, body: String) -> (SocketAddr, Vec<u8>) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    let der = cert.der().to_vec();
    let key = PrivateKeyDer::Pkcs8(signing_key.serialize_der().into());
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let tls = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(stream) = tls.accept(stream).await {
                answer(stream, status, &body).await;
            }
        }
    });
    (address, der)
}

/// A client of an API server that always answers so.
async fn cluster(status: &'static str, body: &'static str) -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            answer(stream, status, body).await;
        }
    });
    Client::try_from(Config::new(server.parse().unwrap())).unwrap()
}

async fn asker(status: &'static str, body: &'static str, roots: Option<Vec<u8>>) -> Asker {
    Asker {
        cluster: cluster(status, body).await,
        namespace: "ns".to_owned(),
        proxies: Proxies::default(),
        roots: roots.map(|der| vec![der]),
    }
}

#[tokio::test]
async fn a_sites_answer_is_read_only_from_whom_it_says_that_it_is_and_not_without_end() {
    let (address, der) = site("200 OK", "203.0.113.7\n".to_owned()).await;
    let query = Query::Get {
        url: format!("{address}/ip"),
    };
    let trusting = asker("200 OK", "{}", Some(der)).await;
    let answer = trusting.ask(Some(&query)).await;
    assert_eq!(answer, Ok(Answer::Text("203.0.113.7\n".to_owned())));
    let wary = asker("200 OK", "{}", None).await;
    let error = wary.ask(Some(&query)).await.unwrap_err();
    assert!(error.to_lowercase().contains("certificate"), "{error}");
    let (address, der) = site("200 OK", "x".repeat(1 << 20)).await;
    let query = Query::Get {
        url: address.to_string(),
    };
    let Ok(Answer::Text(text)) = asker("", "", Some(der)).await.ask(Some(&query)).await else {
        panic!("no text")
    };
    assert_eq!(text.len() as u64, LONGEST);
    let (address, der) = site("503 Service Unavailable", "203.0.113.7".to_owned()).await;
    let query = Query::Get {
        url: address.to_string(),
    };
    let error = asker("", "", Some(der)).await.ask(Some(&query)).await;
    assert!(error.is_err(), "{error:?}");
}

/// A proxy that passes whoever says `auth` on to `site`, wherever they ask to be brought; what each asked for.
async fn proxy(
    site: SocketAddr,
    auth: &'static str,
) -> (SocketAddr, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, asked) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap();
            sender
                .send(head.lines().next().unwrap().to_owned())
                .unwrap();
            let known = head.to_lowercase().contains("proxy-authorization") && head.contains(auth);
            if !known {
                let refused = b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n";
                stream.write_all(refused).await.unwrap();
                continue;
            }
            let mut to = TcpStream::connect(site).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut stream, &mut to).await;
        }
    });
    (address, asked)
}

#[tokio::test]
async fn a_site_is_reached_by_the_proxy_that_sees_its_name_and_nothing_of_what_is_said() {
    // Nobody can resolve it.
    let name = "site.invalid";
    let (address, der) = site_called(name, "200 OK", "203.0.113.7".to_owned()).await;
    // `me:secret`.
    let (proxy, mut asked) = proxy(address, "Basic bWU6c2VjcmV0").await;
    let query = Query::Get {
        url: format!("{name}:8443/ip"),
    };
    let through = async |url: String, no: &str| {
        let proxies = Proxies::new(&url, no).unwrap();
        let mut asker = asker("200 OK", "{}", Some(der.clone())).await;
        asker.proxies = proxies;
        asker.ask(Some(&query)).await
    };
    let answer = through(format!("http://me:secret@{proxy}"), "").await;
    assert_eq!(answer, Ok(Answer::Text("203.0.113.7".to_owned())));
    let connect = format!("CONNECT {name}:8443 HTTP/1.1");
    assert_eq!(asked.recv().await, Some(connect.clone()));
    let error = through(proxy.to_string(), "").await.unwrap_err();
    assert!(error.contains("proxy"), "{error}");
    assert_eq!(asked.recv().await, Some(connect));
    let direct = through(format!("me:secret@{proxy}"), "example,invalid").await;
    assert!(direct.is_err(), "{direct:?}");
    assert!(asked.try_recv().is_err());
}

#[tokio::test]
async fn a_services_load_balancer_has_an_address_a_name_or_nothing_yet() {
    let query = Query::Service("gw".to_owned());
    let ask = async |status, body| asker(status, body, None).await.ask(Some(&query)).await;
    let service =
        r#"{"metadata":{"name":"gw"},"status":{"loadBalancer":{"ingress":[{"ip":"192.0.2.5"}]}}}"#;
    let ip = "192.0.2.5".parse().unwrap();
    assert_eq!(
        ask("200 OK", service).await,
        Ok(Answer::Addresses(vec![ip]))
    );
    let service = r#"{"metadata":{"name":"gw"},"status":{"loadBalancer":{"ingress":[{"hostname":"lb.example"}]}}}"#;
    assert_eq!(
        ask("200 OK", service).await,
        Ok(Answer::Name("lb.example".to_owned()))
    );
    let service = r#"{"metadata":{"name":"gw"},"status":{"loadBalancer":{}}}"#;
    assert!(
        ask("200 OK", service)
            .await
            .unwrap_err()
            .contains("no address yet")
    );
    let status = r#"{"kind":"Status","apiVersion":"v1","status":"Failure","message":"no such service","reason":"NotFound","code":404}"#;
    let error = ask("404 Not Found", status).await.unwrap_err();
    assert!(error.contains("no such service"), "{error}");
}

#[tokio::test]
async fn what_was_learned_is_told_though_the_first_that_is_asked_cannot_be_reached() {
    let (to, mut inputs) = channel(4);
    let ask = start(
        cluster("200 OK", "{}").await,
        "ns".to_owned(),
        Proxies::default(),
        to,
    );
    let families: BTreeSet<Family> = [Family::V4].into();
    let (wanted, _) = Ask::configured("api:127.0.0.1:1/ip,ipv4:192.0.2.3", &families, false);
    ask.send_replace(wanted);
    let told = timeout(Duration::from_secs(5), inputs.recv()).await;
    let Ok(Some(Input::Public(public))) = told else {
        panic!("{told:?}")
    };
    assert_eq!(public.addresses[&Family::V4].to_string(), "192.0.2.3");
}
