//! Receivers that misbehave, names that resolve to forbidden addresses, proxies that fail:
//! attempts have the right outcome in bounded time and memory, and other endpoints do not
//! wait.

use rcgen::{CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio_rustls::TlsAcceptor;

use crate::delivery::answer_one;
use crate::harness::{Receiver, Server, open_survey};

/// Serves every connection with a function, until the test ends.
async fn serve<F: Future<Output = Option<()>> + Send>(
    each: impl Fn(TcpStream) -> F + Send + Clone + 'static,
) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let at = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let each = each.clone();
            tokio::spawn(async move { each(stream).await });
        }
    });
    at
}

/// Reads the head of a request; its body may still be on its way.
async fn head(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut read = vec![0; 65_536];
    let n = stream.read(&mut read).await.ok()?;
    read.truncate(n);
    Some(read)
}

async fn misbehave(mut stream: TcpStream, how: &str) -> Option<()> {
    head(&mut stream).await?;
    let fine = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n";
    match how {
        "hang" => tokio::time::sleep(Duration::from_secs(120)).await,
        "dribble" => loop {
            stream.write_all(b"H").await.ok()?;
            tokio::time::sleep(Duration::from_secs(1)).await;
        },
        "slow_body" => {
            stream.write_all(fine).await.ok()?;
            loop {
                stream.write_all(b"x").await.ok()?;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        "endless_headers" => {
            stream.write_all(b"HTTP/1.1 200 OK\r\n").await.ok()?;
            loop {
                stream.write_all(&[b"x-more: ".as_slice(), &[b'y'; 1_000], b"\r\n"].concat()).await.ok()?;
            }
        }
        "one_endless_header" => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nx-more: ").await.ok()?;
            loop {
                stream.write_all(&[b'y'; 8_192]).await.ok()?;
            }
        }
        "endless_body" => {
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.ok()?;
            loop {
                stream.write_all(&[b'z'; 65_536]).await.ok()?;
            }
        }
        "endless_500" => {
            stream.write_all(b"HTTP/1.1 500 No\r\n\r\n").await.ok()?;
            loop {
                stream.write_all(&[b'z'; 65_536]).await.ok()?;
            }
        }
        "bomb" => {
            let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            std::io::Write::write_all(&mut bomb, &vec![0; 50 << 20]).ok()?;
            let bomb = bomb.finish().ok()?;
            let head = format!("HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n", bomb.len());
            stream.write_all(&[head.as_bytes(), &bomb].concat()).await.ok()?;
        }
        "early_close" => {}
        "half_an_answer" => stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc").await.ok()?,
        "no_http" => stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await.ok()?,
        "no_content" => stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.ok()?,
        "continue_forever" => loop {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.ok()?;
            tokio::time::sleep(Duration::from_millis(10)).await;
        },
        status => {
            let text = format!("HTTP/1.1 {status} X\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n");
            stream.write_all(text.as_bytes()).await.ok()?;
        }
    }
    Some(())
}

/// An endpoint with a timeout of two seconds and no retries.
fn impatient(url: &str) -> Value {
    let retry = json!({"kind": "fixed", "interval": "1h", "max_attempts": 1, "timeout": "2s"});
    json!({"url": url, "events": ["response.completed"], "retry": retry})
}

async fn attempt_of(server: &Server, endpoint_id: &str) -> Value {
    let path = format!("/v1/deliveries?endpoint_id={endpoint_id}");
    let rows = server.get(&path).await.body["deliveries"].clone();
    let Some(id) = rows[0]["delivery_id"].as_str() else { return Value::Null };
    server.get(&format!("/v1/deliveries/{id}")).await.body["attempts"][0].clone()
}

async fn outcomes(server: &Server, wanted: &[(&str, &str, Option<u16>)]) {
    for (name, outcome, status) in wanted {
        let path = format!("/v1/deliveries?endpoint_id={name}");
        server
            .until(name, async || {
                let rows = server.get(&path).await.body["deliveries"].as_array().expect("a list").clone();
                !rows.is_empty() && rows.iter().all(|row| row["attempt_count"] != 0)
            })
            .await;
        let attempt = attempt_of(server, name).await;
        assert_eq!(
            (attempt["outcome"].as_str(), attempt["http_status"].as_u64()),
            (Some(*outcome), status.map(u64::from)),
            "{name}: {attempt}"
        );
    }
}

fn resident_kib(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a line");
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_misbehaviour_has_its_outcome_and_moves_nobody_else() {
    let server = Server::start().await;
    let wanted = [
        ("hang", "timeout", None),
        ("dribble", "timeout", None),
        ("slow_body", "timeout", None),
        ("endless_headers", "broken_response", None),
        ("one_endless_header", "broken_response", None),
        ("endless_body", "delivered", Some(200)),
        ("endless_500", "bad_status", Some(500)),
        ("bomb", "delivered", Some(200)),
        ("early_close", "broken_response", None),
        ("half_an_answer", "broken_response", Some(200)),
        ("no_http", "broken_response", None),
        ("no_content", "delivered", Some(204)),
        ("continue_forever", "timeout", None),
        ("301", "bad_status", Some(301)),
        ("302", "bad_status", Some(302)),
        ("307", "bad_status", Some(307)),
        ("308", "bad_status", Some(308)),
        ("404", "bad_status", Some(404)),
        ("502", "bad_status", Some(502)),
        ("504", "bad_status", Some(504)),
    ];
    for (how, ..) in wanted {
        let at = serve(move |stream| misbehave(stream, how)).await;
        server.put(&format!("/v1/endpoints/{how}"), impatient(&format!("http://{at}/"))).await;
    }
    let nobody = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address");
    server.put("/v1/endpoints/nobody", impatient(&format!("http://{nobody}/"))).await;
    let healthy = Receiver::start(&[]).await;
    server.put("/v1/endpoints/healthy", impatient(&healthy.url)).await;
    server.put("/v1/surveys/open", open_survey()).await;
    let before = resident_kib(&server);
    for n in 0..5 {
        answer_one(&server, &format!("u{n}")).await;
    }
    // The timeout of the misbehaving endpoints is 2 s.
    let began = Instant::now();
    healthy.wait(5).await;
    assert!(began.elapsed() < Duration::from_millis(1_900), "before any of the others has timed out");
    outcomes(&server, &wanted).await;
    outcomes(&server, &[("nobody", "connect_failed", None)]).await;
    let bomb = attempt_of(&server, "bomb").await;
    assert_eq!(bomb["response"], "(gzip, not decoded)");
    let body = attempt_of(&server, "endless_body").await["response"].as_str().map_or(0, str::len);
    assert_eq!(body, 1 << 10, "no more of it is kept");
    let grown = resident_kib(&server).saturating_sub(before);
    assert!(grown < 64 << 10, "{grown} KiB more");
}

/// An authority, and certificates that it signs.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Authority(CertifiedIssuer::self_signed(params, key).expect("a certificate"))
    }

    /// Chain and key in PEM.
    fn issue(&self, name: &str, purpose: ExtendedKeyUsagePurpose) -> (String, String) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        params.extended_key_usages.push(purpose);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    }

    fn server(&self, name: &str, wants_client: bool) -> TlsAcceptor {
        use rustls::pki_types::pem::PemObject as _;
        let (chain, key) = self.issue(name, ExtendedKeyUsagePurpose::ServerAuth);
        let chain = vec![rustls::pki_types::CertificateDer::from_pem_slice(chain.as_bytes()).expect("PEM")];
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM");
        let config = ServerConfig::builder();
        let config = if wants_client {
            let mut roots = RootCertStore::empty();
            roots.add(self.0.der().clone()).expect("a root");
            config
                .with_client_cert_verifier(WebPkiClientVerifier::builder(Arc::new(roots)).build().expect("a verifier"))
        } else {
            config.with_no_client_auth()
        };
        TlsAcceptor::from(Arc::new(config.with_single_cert(chain, key).expect("a configuration")))
    }
}

async fn answer_over_tls(stream: TcpStream, acceptor: TlsAcceptor) -> Option<()> {
    let mut stream = acceptor.accept(stream).await.ok()?;
    let mut read = vec![0; 65_536];
    while let Ok(n) = stream.read(&mut read).await
        && n > 0
    {
        if read[..n].ends_with(b"}") {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.ok()?;
        }
    }
    Some(())
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_verified_with_the_endpoints_own_and_shown_where_asked() {
    let server = Server::start().await;
    let authority = Authority::new();
    let port =
        async |acceptor: TlsAcceptor| serve(move |stream| answer_over_tls(stream, acceptor.clone())).await.port();
    let trusted = port(authority.server("127.0.0.1", false)).await;
    let misnamed = port(authority.server("10.9.9.9", false)).await;
    let asks = port(authority.server("127.0.0.1", true)).await;
    let stalls = serve(|stream| async move {
        let _held_open = stream;
        std::future::pending().await
    })
    .await
    .port();
    let ca = authority.0.pem();
    let (chain, key) = authority.issue("askwhen", ExtendedKeyUsagePurpose::ClientAuth);
    let with = |port: u16, tls: Value| {
        let mut body = impatient(&format!("https://127.0.0.1:{port}/"));
        body["tls"] = tls;
        body
    };
    let shows = json!({"ca": ca, "client_cert": chain, "client_key": key});
    for (name, body) in [
        ("trusted", with(trusted, json!({"ca": ca}))),
        ("unknown_authority", with(trusted, Value::Null)),
        ("wrong_name", with(misnamed, json!({"ca": ca}))),
        ("shows", with(asks, shows.clone())),
        ("shows_nothing", with(asks, json!({"ca": ca}))),
        ("stalls", with(stalls, json!({"ca": ca}))),
    ] {
        let said = server.put(&format!("/v1/endpoints/{name}"), body.clone()).await;
        assert_eq!(said.status, 201, "{said:?}");
        let again = server.put(&format!("/v1/endpoints/{name}"), body).await;
        assert_eq!(again.body["changed"], false, "{name}: the same key keeps its bytes");
    }
    let shown = server.get("/v1/endpoints/shows").await.body;
    assert_eq!((&shown["tls"]["client_cert"], shown["tls"].get("client_key")), (&json!(chain), None));
    let unlike = json!({"client_cert": authority.issue("x", ExtendedKeyUsagePurpose::ClientAuth).0, "client_key": key});
    let said =
        server.call(&server.admin, reqwest::Method::PUT, "/v1/endpoints/unlike", Some(&with(asks, unlike))).await;
    assert_eq!((said.status, &said.body["errors"][0]["pointer"]), (422, &json!("/tls/client_key")), "{said:?}");
    server.put("/v1/surveys/open", open_survey()).await;
    answer_one(&server, "ann").await;
    outcomes(
        &server,
        &[
            ("trusted", "delivered", Some(200)),
            ("unknown_authority", "tls_failed", None),
            ("wrong_name", "tls_failed", None),
            ("shows", "delivered", Some(200)),
            ("stalls", "timeout", None),
        ],
    )
    .await;
    let refused = attempt_of(&server, "shows_nothing").await;
    assert_ne!(refused["outcome"], "delivered", "{refused}");
    for topic in ["definitions", "deliveries", "events"] {
        let text = serde_json::to_string(&crate::harness::tail(server.dir.path(), topic)).unwrap();
        assert!(!text.contains("PRIVATE KEY"), "{topic} shows no key");
    }
}

/// Sockets of both protocols on one port. A port that is free for UDP may be taken for TCP, by any outgoing connection:
/// then another one is asked for, while the refused ones stay held so that the system cannot offer them again.
async fn udp_and_tcp() -> (UdpSocket, TcpListener) {
    let mut refused = Vec::new();
    loop {
        let udp = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        match TcpListener::bind(udp.local_addr().expect("an address")).await {
            Ok(tcp) => return (udp, tcp),
            Err(e) if e.kind() == std::io::ErrorKind::AddrInUse && refused.len() < 100 => refused.push(udp),
            Err(e) => panic!("no port is free for UDP and TCP: {e}"),
        }
    }
}

/// Answers questions for addresses by the name's first label, over UDP and TCP.
async fn name_server(asked: Arc<AtomicUsize>) -> std::net::SocketAddr {
    let (udp, tcp) = udp_and_tcp().await;
    let at = udp.local_addr().expect("an address");
    let also = asked.clone();
    tokio::spawn(async move {
        let mut question = [0; 1_500];
        while let Ok((n, from)) = udp.recv_from(&mut question).await {
            if let Some(mut answer) = resolve(&question[..n], &asked) {
                if answer.len() > 512 {
                    answer.truncate(n);
                    answer[2] |= 2;
                    answer[6..8].fill(0);
                }
                udp.send_to(&answer, from).await.ok();
            }
        }
    });
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = tcp.accept().await {
            let asked = also.clone();
            tokio::spawn(async move {
                while let Ok(n) = stream.read_u16().await {
                    let mut question = vec![0; usize::from(n)];
                    stream.read_exact(&mut question).await.ok()?;
                    let answer = resolve(&question, &asked)?;
                    stream.write_u16(answer.len() as u16).await.ok()?;
                    stream.write_all(&answer).await.ok()?;
                }
                Some(())
            });
        }
    });
    at
}

fn resolve(question: &[u8], asked: &AtomicUsize) -> Option<Vec<u8>> {
    let label = question.get(13..13 + usize::from(*question.get(12)?))?;
    let label = String::from_utf8_lossy(label).to_lowercase();
    let name_end = 12 + question[12..].iter().position(|byte| *byte == 0)? + 1;
    let wants_v4 = question.get(name_end..name_end + 2)? == [0, 1];
    let (code, addresses): (u8, Vec<[u8; 4]>) = match label.as_str() {
        "good" => (0, vec![[127, 0, 0, 1]]),
        // The first answer is an allowed address.
        "rebinds" if wants_v4 && asked.fetch_add(1, Ordering::AcqRel) == 0 => (0, vec![[127, 0, 0, 1]]),
        "rebinds" => (0, vec![[10, 0, 0, 1]]),
        "private" => (0, vec![[192, 168, 7, 7]]),
        "mixed" => (0, vec![[127, 0, 0, 1], [10, 0, 0, 1]]),
        "metadata" => (0, vec![[169, 254, 169, 254]]),
        "many" => (0, (0..500u16).map(|n| [127, 0, (n >> 8) as u8, n as u8]).collect()),
        "empty" => (0, Vec::new()),
        "servfail" => (2, Vec::new()),
        "nxdomain" => (3, Vec::new()),
        _ => return None,
    };
    let addresses = if wants_v4 { addresses } else { Vec::new() };
    let mut answer = question[..name_end + 4].to_vec();
    answer[2] = 0x85;
    answer[3] = 0x80 | code;
    answer[6..8].copy_from_slice(&(addresses.len() as u16).to_be_bytes());
    answer[8..12].fill(0);
    for address in addresses {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        answer.extend(Ipv4Addr::from(address).octets());
    }
    Some(answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_resolved_and_judged_at_every_attempt() {
    let asked = Arc::new(AtomicUsize::new(0));
    let names = format!("[\"{}\"]", name_server(asked).await);
    let environment = [("ASKWHEN__DELIVERY__NAMESERVERS", names.as_str())];
    let dir = Arc::new(tempfile::tempdir().expect("a folder"));
    let server = Server::on(dir, &["--dev", "--test-clock"], &environment).await;
    let receiver = Receiver::start(&[503]).await;
    let port = receiver.url.rsplit(':').next().expect("a port").to_owned();
    let names = ["good", "rebinds", "private", "mixed", "metadata", "many", "empty", "servfail", "nxdomain", "silent"];
    for name in names.iter().filter(|name| **name != "good") {
        let said =
            server.put(&format!("/v1/endpoints/{name}"), impatient(&format!("http://{name}.test:{port}/{name}"))).await;
        assert_eq!(said.status, 201, "{said:?}");
    }
    let mut body = impatient(&format!("http://rebinds.test:{port}/rebinds"));
    body["retry"] = json!({"kind": "fixed", "interval": "2m", "max_attempts": 2, "timeout": "2s"});
    server.put("/v1/endpoints/rebinds", body).await;
    server.put("/v1/surveys/open", open_survey()).await;
    answer_one(&server, "ann").await;
    outcomes(
        &server,
        &[
            ("rebinds", "bad_status", Some(503)),
            ("private", "blocked_target", None),
            ("mixed", "blocked_target", None),
            ("metadata", "blocked_target", None),
            ("many", "connect_failed", None),
            ("empty", "connect_failed", None),
            ("servfail", "connect_failed", None),
            ("nxdomain", "connect_failed", None),
            ("silent", "timeout", None),
        ],
    )
    .await;
    server.put("/v1/endpoints/good", impatient(&format!("http://good.test:{port}/good"))).await;
    answer_one(&server, "bob").await;
    server.until("a good name", async || receiver.got().iter().any(|webhook| webhook.path == "/good")).await;
    let came: Vec<String> = receiver.got().iter().map(|webhook| webhook.path.clone()).collect();
    assert!(came.iter().all(|path| path == "/good" || path == "/rebinds"), "{came:?}");
}

/// A proxy that counts the connections which it passes on, or refuses all of them.
async fn proxy(passed: Arc<AtomicUsize>, works: bool) -> std::net::SocketAddr {
    serve(move |mut stream| {
        let passed = passed.clone();
        async move {
            let request = String::from_utf8(head(&mut stream).await?).ok()?;
            if !works {
                stream.write_all(b"HTTP/1.1 500 Out Of Order\r\n\r\n").await.ok()?;
                return None;
            }
            let target = request.strip_prefix("CONNECT ")?.split(' ').next()?.to_owned();
            assert!(request.to_lowercase().contains("proxy-authorization: basic dtpw"), "{request}");
            let mut to = TcpStream::connect(target).await.ok()?;
            passed.fetch_add(1, Ordering::AcqRel);
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.ok()?;
            tokio::io::copy_bidirectional(&mut stream, &mut to).await.ok()?;
            Some(())
        }
    })
    .await
}

async fn ended(server: &Server) -> usize {
    server.get("/v1/deliveries?status=delivered").await.body["deliveries"].as_array().expect("a list").len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_carries_what_is_allowed_and_its_faults_are_its_own() {
    for works in [true, false] {
        let passed = Arc::new(AtomicUsize::new(0));
        let url = format!("http://u:p@{}", proxy(passed.clone(), works).await);
        let environment = [("ASKWHEN__DELIVERY__EGRESS_PROXY", url.as_str()), ("HTTP_PROXY", "http://127.0.0.1:1")];
        let dir = Arc::new(tempfile::tempdir().expect("a folder"));
        let server = Server::on(dir, &["--dev", "--test-clock"], &environment).await;
        let receiver = Receiver::start(&[]).await;
        server.put("/v1/endpoints/crm", impatient(&receiver.url)).await;
        server.put("/v1/surveys/open", open_survey()).await;
        for n in 0..12 {
            answer_one(&server, &format!("u{n}")).await;
        }
        let count = async |status: &str| {
            let path = format!("/v1/deliveries?status={status}");
            server.get(&path).await.body["deliveries"].as_array().expect("a list").len()
        };
        if works {
            server.until("all are through", async || count("delivered").await == 12).await;
            outcomes(&server, &[("crm", "delivered", Some(200))]).await;
        } else {
            // Each delivery finds out in its turn that the proxy still fails, and waits on.
            server.until("some have tried", async || count("waiting").await > 0).await;
            server.advance("3h").await;
            server.until("all wait", async || count("waiting").await == 12).await;
            outcomes(&server, &[("crm", "proxy_failed", None)]).await;
        }
        assert_eq!(receiver.got().len(), if works { 12 } else { 0 }, "nothing goes around it");
        assert_eq!(passed.load(Ordering::Acquire) > 0, works);
        let shown = server.get("/v1/endpoints/crm").await.body;
        let state = (shown["state"].as_str(), shown["state_reason"].as_str());
        assert_eq!(state, if works { (Some("healthy"), None) } else { (Some("open"), Some("proxy_failed")) });
        if !works {
            let dir = server.kill();
            let server = Server::on(dir, &["--dev", "--test-clock"], &[]).await;
            server.advance("10m").await;
            receiver.wait(12).await;
            server.until("all are through", async || ended(&server).await == 12).await;
        }
    }
}
