//! Connections to receivers. A name is resolved once, and every address of it is checked:
//! one that is not allowed refuses them all. Connections go to the checked addresses only,
//! directly or through the operator's proxy.

use bytes::Bytes;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use http::uri::Scheme;
use http::{Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{CaptureConnection, Connected, Connection, capture_connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use ipnet::IpNet;
use rustls::pki_types::ServerName;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tower_service::Service;
use url::Url;

use super::endpoints::OpenedEndpoint;
use super::fault::{Fault, FaultKind, root_cause};
use super::resolver::ResolverError;
use super::usage::{Usage, Watched};
use askwhen_domain::webhook::address;
use askwhen_wire::tls;

/// The largest head of a proxy's response.
const MAX_PROXY_HEAD_BYTES: usize = 8 << 10;
/// The largest head of a receiver's response.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// How many idle connections to one receiver are kept. With fewer than are used at once they
/// would be opened and closed all the time; one receiver must not have all that may be open.
const IDLE_CONNECTIONS: usize = KEPT_CONNECTIONS / 4;
/// How long an idle connection is kept.
const IDLE: Duration = Duration::from_secs(60);
/// A name with more addresses is refused.
const MAX_ADDRESSES: usize = 256;
/// How many addresses of a name are tried.
const TRIED_ADDRESSES: usize = 4;
/// With this many open connections none is kept for the next request, which bounds the
/// memory of idle ones, however many receivers there are.
const KEPT_CONNECTIONS: usize = 512;
/// How many HTTP clients are kept, one for each set of TLS settings and timeouts. Most
/// endpoints share one.
const MAX_CLIENTS: usize = 1_024;
/// How long the addresses of a name are cached at most.
const NAME_KEPT: Duration = Duration::from_secs(60);

/// How attempts go out.
#[derive(Clone, Default)]
pub struct Egress {
    /// Private networks to which webhooks may go.
    pub allow_targets: Vec<IpNet>,
    /// `http://[user:password@]host:port`, the proxy of all webhooks.
    pub proxy: Option<Url>,
    /// DNS servers; empty for those of the machine.
    pub nameservers: Vec<SocketAddr>,
    /// Where people reach the console, without a slash at its end; messages link to it.
    pub console_url: String,
}

/// The HTTP clients of endpoints with the same settings.
#[derive(Clone)]
struct ClientPool {
    /// Keeps connections for the next request.
    keeping: Client<Connector, Full<Bytes>>,
    /// Closes each connection after its request.
    closing: Client<Connector, Full<Bytes>>,
}

/// The settings that need a client of their own.
#[derive(Clone, PartialEq, Eq, Hash)]
struct ClientKey {
    https: bool,
    ca: Option<String>,
    /// Client certificate and private key, as PEM.
    client_identity: Option<(String, String)>,
    connect_timeout: Duration,
}

#[derive(Clone)]
pub struct Clients {
    egress: Arc<Egress>,
    names: Names,
    pools: Arc<Mutex<HashMap<ClientKey, ClientPool>>>,
    /// Connections to receivers.
    open: Arc<AtomicUsize>,
}

impl Clients {
    /// # Errors
    /// When the resolver cannot be set up.
    pub fn new(egress: Egress) -> Result<Clients, ResolverError> {
        let names = Names::new(&egress.nameservers)?;
        Ok(Clients { egress: Arc::new(egress), names, pools: Arc::default(), open: Arc::default() })
    }

    /// Connections to receivers, in use or idle.
    pub fn connections(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    pub fn allowed(&self) -> &[IpNet] {
        &self.egress.allow_targets
    }

    pub fn console_url(&self) -> &str {
        &self.egress.console_url
    }

    /// # Errors
    /// Why there is no answer.
    pub async fn send(
        &self,
        defined: &OpenedEndpoint,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, Fault> {
        let https = request.uri().scheme() == Some(&Scheme::HTTPS);
        let pool = self.pool(defined, https)?;
        let client = if self.connections() < KEPT_CONNECTIONS { &pool.keeping } else { &pool.closing };
        let (mut request, again) = (request.clone(), request);
        let connection = capture_connection(&mut request);
        let sent = match client.request(request).await {
            // The receiver closed the idle connection, so it has not seen the request: sending
            // it again is the same attempt.
            Err(error) if !error.is_connect() && was_closed_idle(&connection) => pool.closing.request(again).await,
            sent => sent,
        };
        sent.map_err(|error| {
            let mut source: Option<&(dyn std::error::Error + 'static)> = Some(&error);
            while let Some(inner) = source {
                if let Some(fault) = inner.downcast_ref::<Fault>() {
                    return fault.clone();
                }
                // With TLS 1.3 a receiver refuses a client certificate after the handshake.
                if let Some(error @ rustls::Error::AlertReceived(_)) = inner.downcast_ref::<rustls::Error>() {
                    return Fault::new(FaultKind::Tls, error.clone());
                }
                source = inner.source();
            }
            Fault::new(if error.is_connect() { FaultKind::Connect } else { FaultKind::Broken }, root_cause(&error))
        })
    }

    fn pool(&self, defined: &OpenedEndpoint, https: bool) -> Result<ClientPool, Fault> {
        let endpoint = &defined.endpoint;
        let settings = endpoint.tls.as_ref();
        let chain = settings.and_then(|tls| tls.client_cert.clone());
        let kind = ClientKey {
            https,
            ca: settings.and_then(|tls| tls.ca.clone()),
            client_identity: chain.zip(defined.client_key().cloned()),
            connect_timeout: Duration::from_millis(endpoint.retry.connect_timeout.unsigned_abs()),
        };
        if settings.is_some_and(|tls| tls.client_cert.is_some()) && kind.client_identity.is_none() {
            let detail = "the client certificate has no private key that can be read";
            return Err(Fault::new(FaultKind::Unusable, detail));
        }
        if let Some(pool) = self.pools.lock().expect("no panic holds this lock").get(&kind) {
            return Ok(pool.clone());
        }
        // Reads the certificates that the machine trusts: not under the lock. Should
        // that fail it is the machine's fault, and the next attempt tries again.
        let client_identity = kind.client_identity.as_ref().map(|(chain, key)| (chain.as_str(), key.as_str()));
        let tls = if https {
            let unusable = |error: tls::Error| Fault::new(FaultKind::Unusable, error).within("tls ");
            let config = tls::client(kind.ca.as_deref(), client_identity).map_err(unusable)?;
            Some(TlsConnector::from(Arc::new(config)))
        } else {
            None
        };
        let connector = Connector {
            egress: self.egress.clone(),
            names: self.names.clone(),
            tls,
            timeout: kind.connect_timeout,
            open: self.open.clone(),
        };
        let client = |idle: usize| {
            Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(IDLE)
                .pool_max_idle_per_host(idle)
                .http1_max_buf_size(MAX_HEAD_BYTES)
                .build(connector.clone())
        };
        let pool = ClientPool { keeping: client(IDLE_CONNECTIONS), closing: client(0) };
        let mut pools = self.pools.lock().expect("no panic holds this lock");
        if pools.len() >= MAX_CLIENTS {
            // Connections under way live on; idle ones are opened anew.
            pools.clear();
        }
        pools.insert(kind, pool.clone());
        Ok(pool)
    }
}

/// Whether a request was sent over a connection that the receiver closed while it was idle.
fn was_closed_idle(connection: &CaptureConnection) -> bool {
    let mut extras = http::Extensions::new();
    if let Some(connected) = &*connection.connection_metadata() {
        connected.get_extras(&mut extras);
    }
    extras.get::<Usage>().is_some_and(Usage::was_closed_idle)
}

/// Resolves names. Where the machine's resolver cannot be read, it holds the fault of every
/// name.
#[derive(Clone)]
struct Names(Result<Arc<TokioResolver>, Fault>);

impl Names {
    fn new(servers: &[SocketAddr]) -> Result<Names, ResolverError> {
        let mut builder = if servers.is_empty() {
            match TokioResolver::builder_tokio() {
                Ok(builder) => builder,
                // Endpoints with addresses instead of names still work.
                Err(error) => {
                    let fault = Fault::new(FaultKind::Machine, error);
                    return Ok(Names(Err(fault.within("the machine's resolver cannot be read: "))));
                }
            }
        } else {
            let server = |at: &SocketAddr| {
                let mut ways = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
                ways.iter_mut().for_each(|way| way.port = at.port());
                NameServerConfig::new(at.ip(), true, ways)
            };
            let config = ResolverConfig::from_parts(None, Vec::new(), servers.iter().map(server).collect());
            TokioResolver::builder_with_config(config, Default::default())
        };
        let options = builder.options_mut();
        options.positive_max_ttl = Some(NAME_KEPT);
        options.negative_max_ttl = Some(Duration::from_secs(5));
        options.use_hosts_file = ResolveHosts::Always;
        let resolver = builder.build()?;
        Ok(Names(Ok(Arc::new(resolver))))
    }

    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, Fault> {
        if let Ok(ip) = bare(host).parse() {
            return Ok(vec![ip]);
        }
        let resolver = self.0.as_ref().map_err(Clone::clone)?;
        let found = resolver.lookup_ip(host).await;
        let found = found.map_err(|error| {
            let error = error.to_string();
            let why = error.split(" for Query").next().unwrap_or_default();
            Fault::new(FaultKind::Connect, format!("the name cannot be resolved: {why}"))
        })?;
        let found: Vec<IpAddr> = found.iter().take(MAX_ADDRESSES + 1).collect();
        match found.len() {
            0 => Err(Fault::new(FaultKind::Connect, "the name has no address")),
            n if n > MAX_ADDRESSES => {
                Err(Fault::new(FaultKind::Connect, format!("the name has more than {MAX_ADDRESSES} addresses")))
            }
            _ => Ok(found),
        }
    }
}

#[derive(Clone)]
struct Connector {
    egress: Arc<Egress>,
    names: Names,
    /// `None` for `http:`.
    tls: Option<TlsConnector>,
    timeout: Duration,
    open: Arc<AtomicUsize>,
}

impl Connector {
    async fn connect(self, to: Uri) -> Result<Link, Fault> {
        let timeout = self.timeout;
        let connecting = self.connect_without_timeout(&to);
        tokio::time::timeout(timeout, connecting).await.map_err(|_| late(timeout))?
    }

    async fn connect_without_timeout(&self, to: &Uri) -> Result<Link, Fault> {
        let https = self.tls.is_some();
        let host = to.host().ok_or_else(|| Fault::new(FaultKind::Connect, "the URL has no host"))?;
        let port = to.port_u16().unwrap_or(if https { 443 } else { 80 });
        let addresses = self.allowed_addresses(host, https).await?;
        let stream = match &self.egress.proxy {
            None => first(&addresses, port, self.timeout).await?,
            Some(proxy) => self.through(proxy, &addresses, port).await?,
        };
        let Some(connector) = &self.tls else { return Ok(self.link(stream)) };
        let name = ServerName::try_from(bare(host).to_owned()).map_err(|e| Fault::new(FaultKind::Tls, e))?;
        let secured = connector.connect(name, stream).await;
        let secured = secured.map_err(|e| Fault::new(FaultKind::Tls, with_advice(&root_cause(&e))))?;
        Ok(self.link(secured))
    }

    fn link(&self, stream: impl Stream + 'static) -> Link {
        self.open.fetch_add(1, Ordering::Relaxed);
        let stream: Box<dyn Stream> = Box::new(stream);
        let stream = Watched::new(stream);
        Link { usage: stream.usage(), stream: TokioIo::new(stream), open: self.open.clone() }
    }

    /// Resolves a host to addresses that are all allowed.
    async fn allowed_addresses(&self, host: &str, https: bool) -> Result<Vec<IpAddr>, Fault> {
        let found = self.names.addresses(host).await?;
        let allowed = &self.egress.allow_targets;
        // Plain `http:` may go only to networks that an operator has allowed.
        let is_fine = |ip: &IpAddr| address::is_allowed(*ip, allowed) || (https && !address::is_forbidden(*ip));
        if !found.iter().all(is_fine) {
            let detail = "the name resolves to an address that is not allowed (see [delivery] allow_targets)";
            return Err(Fault::new(FaultKind::Blocked, detail));
        }
        Ok(found)
    }

    /// Connects through the proxy, which gets the checked addresses, never the name. When it
    /// cannot reach them, that is the receiver's fault, as it would be without a proxy.
    async fn through(&self, proxy: &Url, to: &[IpAddr], port: u16) -> Result<TcpStream, Fault> {
        let fault = |why: &str| Fault::new(FaultKind::Proxy, format!("the proxy: {why}"));
        let of_proxy = |fault: Fault| fault.within("the proxy: ").of_kind(FaultKind::Proxy);
        let host = proxy.host_str().ok_or_else(|| fault("its URL has no host"))?;
        let own_port = proxy.port_or_known_default().unwrap_or(80);
        let addresses = self.names.addresses(host).await.map_err(of_proxy)?;
        let mut last = Fault::new(FaultKind::Connect, "there is no address");
        for ip in to.iter().take(TRIED_ADDRESSES) {
            // Half of the timeout, so that a dead proxy is not taken for a dead receiver.
            let stream = first(&addresses, own_port, self.timeout / 2).await;
            let mut stream = stream.map_err(|error| match error.kind() {
                FaultKind::Machine => error,
                _ => of_proxy(error),
            })?;
            let asked = tunnel(&mut stream, proxy, SocketAddr::new(*ip, port)).await;
            match asked.map_err(|error| of_proxy(Fault::new(FaultKind::Proxy, error)))? {
                200..300 => return Ok(stream),
                status @ 502..505 => {
                    last = Fault::new(FaultKind::Connect, format!("the proxy cannot reach it (status {status})"));
                }
                407 => return Err(fault("it wants another user name and password (status 407)")),
                status => return Err(fault(&format!("it answered CONNECT with status {status}"))),
            }
        }
        Err(last)
    }
}

/// Asks a proxy for a tunnel; returns the status of its response.
async fn tunnel(stream: &mut TcpStream, proxy: &Url, to: SocketAddr) -> std::io::Result<u16> {
    let mut request = format!("CONNECT {to} HTTP/1.1\r\nhost: {to}\r\n");
    if !proxy.username().is_empty() {
        let pair = format!("{}:{}", decoded(proxy.username()), decoded(proxy.password().unwrap_or_default()));
        let pair = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, pair);
        request.push_str(&format!("proxy-authorization: Basic {pair}\r\n"));
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= MAX_PROXY_HEAD_BYTES {
            return Err(std::io::Error::other("its answer has no end"));
        }
        // A byte at a time, because the bytes behind the head are the receiver's.
        head.push(stream.read_u8().await?);
    }
    let status = head.strip_prefix(b"HTTP/1.").and_then(|rest| std::str::from_utf8(rest.get(2..5)?).ok()?.parse().ok());
    status.ok_or_else(|| std::io::Error::other("its answer is no HTTP"))
}

/// The text of a TLS error, with what may help.
fn with_advice(fault: &str) -> String {
    let help = match fault {
        _ if fault.contains("UnknownIssuer") => " (the authority is not trusted: see tls.ca)",
        _ if fault.contains("CaUsedAsEndEntity") => {
            " (the receiver shows an authority's certificate as its own: give exactly that one as tls.ca)"
        }
        _ if fault.contains("InvalidContentType") => " (the receiver seems to speak plain http)",
        _ => "",
    };
    format!("{fault}{help}")
}

/// A host without the brackets of an IPv6 address.
fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

fn decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

fn late(timeout: Duration) -> Fault {
    Fault::new(FaultKind::ConnectTimeout, format!("no connection within {} ms", timeout.as_millis()))
}

/// Connects to the first address that accepts; each gets its share of the timeout.
async fn first(addresses: &[IpAddr], port: u16, timeout: Duration) -> Result<TcpStream, Fault> {
    let mut last = Fault::new(FaultKind::Connect, "there is no address");
    let tried = addresses.len().min(TRIED_ADDRESSES);
    for ip in &addresses[..tried] {
        let connecting = TcpStream::connect(SocketAddr::new(*ip, port));
        match tokio::time::timeout(timeout / tried as u32, connecting).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true).map_err(Fault::of_connecting)?;
                return Ok(stream);
            }
            Ok(Err(error)) => last = Fault::of_connecting(error),
            Err(_) => last = late(timeout),
        }
    }
    Err(last)
}

impl Service<Uri> for Connector {
    type Response = Link;
    type Error = Fault;
    type Future = Pin<Box<dyn Future<Output = Result<Link, Fault>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        Box::pin(self.clone().connect(to))
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection to a receiver.
struct Link {
    stream: TokioIo<Watched<Box<dyn Stream>>>,
    usage: Usage,
    open: Arc<AtomicUsize>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Connection for Link {
    fn connected(&self) -> Connected {
        Connected::new().extra(self.usage.clone())
    }
}

impl Read for Link {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl Write for Link {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }
}
