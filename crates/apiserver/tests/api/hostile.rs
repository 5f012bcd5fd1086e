use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::*;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// Sends a request as it is; gives the code and the reason of the `Status` in the answer.
async fn send(
    client: &Client,
    method: &str,
    path: &str,
    content: &str,
    body: Vec<u8>,
) -> (u16, String) {
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", content);
    let response = soon(client.send(request.body(Body::from(body)).unwrap()))
        .await
        .unwrap();
    let code = response.status().as_u16();
    let text = response.into_body().collect_bytes().await.unwrap();
    let status: Value = serde_json::from_slice(&text).unwrap_or_default();
    (
        code,
        status["reason"].as_str().unwrap_or_default().to_owned(),
    )
}

#[tokio::test]
async fn nonsense_is_answered_with_a_status_and_the_server_lives() {
    let server = Server::start().await;
    let client = server.admin().await;
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let nested = format!(
        "{{\"metadata\":{{\"name\":\"d\"}},\"data\":{}1{}}}",
        "{\"a\":".repeat(110),
        "}".repeat(110)
    );
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n".to_owned()
        + &('b'..='j')
            .map(|c| {
                let before = char::from_u32(u32::from(c) - 1).unwrap();
                format!("{c}: &{c} [{}]\n", vec![format!("*{before}"); 9].join(","))
            })
            .collect::<String>();
    let yaml = "application/apply-patch+yaml";
    let plain = "application/json";
    let patch = format!("{MAPS}/a?fieldManager=x");
    for (method, path, content, body, code) in [
        ("POST", MAPS, plain, "{", 400),
        ("POST", MAPS, plain, "", 400),
        ("POST", MAPS, plain, "[]", 400),
        ("POST", MAPS, plain, "\"x\"", 400),
        ("POST", MAPS, plain, "\u{0}", 400),
        ("POST", MAPS, plain, &deep, 400),
        ("POST", MAPS, plain, &nested, 413),
        ("POST", MAPS, plain, r#"{"metadata": []}"#, 400),
        ("POST", MAPS, plain, r#"{"metadata": {"name": 1}}"#, 400),
        ("POST", MAPS, plain, r#"{"metadata": {"name": "a/b"}}"#, 422),
        (
            "POST",
            MAPS,
            plain,
            r#"{"metadata": {"name": "a", "labels": 3}}"#,
            422,
        ),
        (
            "POST",
            MAPS,
            plain,
            r#"{"kind": "Pod", "metadata": {"name": "a"}}"#,
            400,
        ),
        (
            "POST",
            MAPS,
            plain,
            r#"{"kind": 7, "metadata": {"name": "a"}}"#,
            400,
        ),
        (
            "POST",
            MAPS,
            plain,
            r#"{"metadata": {"name": "a", "namespace": "other"}}"#,
            400,
        ),
        (
            "POST",
            MAPS,
            "application/vnd.kubernetes.protobuf",
            "k8s",
            415,
        ),
        ("POST", &format!("{MAPS}/a"), plain, "{}", 405),
        ("BREW", MAPS, plain, "{}", 405),
        ("PATCH", &patch, yaml, "\tx: [", 400),
        ("PATCH", &patch, yaml, &bomb, 400),
        ("PATCH", &patch, yaml, "[1]", 400),
        ("PATCH", &patch, "text/plain", "{}", 415),
        ("GET", &format!("{MAPS}?limit=x"), plain, "", 400),
        ("GET", &format!("{MAPS}?continue=x"), plain, "", 400),
        (
            "GET",
            &format!("{MAPS}?watch=1&resourceVersion=x"),
            plain,
            "",
            400,
        ),
        (
            "GET",
            &format!("{MAPS}?watch=1&sendInitialEvents=true"),
            plain,
            "",
            400,
        ),
        (
            "GET",
            "/api/v1/namespaces/..%2f..%2fetc/configmaps/x",
            plain,
            "",
            404,
        ),
        ("GET", "/apis/none.io/v1/things", plain, "", 404),
        ("GET", "/%ff", plain, "", 404),
        ("DELETE", &format!("{MAPS}/a"), plain, "nonsense", 400),
        (
            "POST",
            "/api/v1/namespaces",
            plain,
            r#"{"metadata": {"name": "odd"}, "spec": "x", "status": 3}"#,
            201,
        ),
        (
            "PUT",
            "/api/v1/namespaces/odd/status",
            plain,
            r#"{"status": "x"}"#,
            200,
        ),
        ("DELETE", "/api/v1/namespaces/odd", plain, "", 200),
        (
            "POST",
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
            plain,
            r#"{"metadata": {"name": "x"}, "spec": 3, "status": []}"#,
            422,
        ),
        (
            "POST",
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
            plain,
            r#"{"metadata": {"name": "x.y"}, "spec": {"names": [], "versions": [1, {"schema": 2}]}}"#,
            422,
        ),
    ] {
        let (got, reason) = send(&client, method, path, content, body.as_bytes().to_vec()).await;
        let shown = body.get(..80).unwrap_or(body);
        assert_eq!(got, code, "{method} {path} {shown}: {reason}");
        assert!(
            code < 400 || !reason.is_empty(),
            "{method} {path} {shown}: no Status"
        );
    }
    let huge = json!({"metadata": {"name": "a"}, "data": {"x": "y".repeat(4 << 20)}}).to_string();
    assert_eq!(
        send(&client, "POST", MAPS, plain, huge.into_bytes())
            .await
            .0,
        413
    );
    let good = json!({"metadata": {"name": "a"}}).to_string();
    assert_eq!(
        send(&client, "POST", MAPS, plain, good.into_bytes())
            .await
            .0,
        201
    );
    server.restart().await;
}

#[tokio::test]
async fn managed_fields_from_clients_cannot_harm() {
    let server = Server::start().await;
    let client = server.admin().await;
    let body = json!({"metadata": {"name": "a"}, "data": {"x": "1"}}).to_string();
    send(&client, "POST", MAPS, "application/json", body.into_bytes()).await;
    for managed in [
        json!([{}]),
        json!([1, "x", {"operation": "Apply", "fieldsV1": 3}]),
        json!([{"manager": "x", "operation": "Apply", "fieldsV1": {"k:{": {"f:": {}}, "v:\"": {}, "": {"": {}}, ".": {}}}]),
        json!("x"),
    ] {
        let patch = json!({"metadata": {"managedFields": managed}}).to_string();
        let (code, _) = send(
            &client,
            "PATCH",
            &format!("{MAPS}/a"),
            "application/merge-patch+json",
            patch.into_bytes(),
        )
        .await;
        assert_eq!(code, 200, "{managed}");
        let apply =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"x": "2"}}).to_string();
        let path = format!("{MAPS}/a?fieldManager=x&force=true");
        assert_eq!(
            send(
                &client,
                "PATCH",
                &path,
                "application/apply-patch+yaml",
                apply.into_bytes()
            )
            .await
            .0,
            200
        );
    }
}

#[tokio::test]
async fn bytes_that_are_no_tls_end_the_connection_and_nothing_else() {
    let server = Server::start().await;
    let mut stream = tokio::net::TcpStream::connect(server.running.local_addr)
        .await
        .unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut rest = Vec::new();
    let _ = soon(stream.read_to_end(&mut rest)).await;
    assert!(server.admin().await.apiserver_version().await.is_ok());
}
