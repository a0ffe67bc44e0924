//! Servers in the test's own process that listen inside a pod's namespace:
//! HTTP/1.1, HTTP/2 and gRPC, with or without TLS. What they answer is the
//! test's to say, and can change while they run.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ambit_netns::NetNs;
use anyhow::{Context, Result, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Got {
    pub(crate) method: String,
    /// With query.
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Got {
    /// A header, or nothing.
    pub(crate) fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.and_then(|v| v.to_str().ok()).unwrap_or_default()
    }

    /// The message of a unary gRPC call.
    pub(crate) fn message<M: Message + Default>(&self) -> Result<M> {
        let (head, message) = self.body.split_at_checked(5).context("no message")?;
        ensure!(head[0] == 0, "a compressed message");
        Ok(M::decode(message)?)
    }
}

/// An answer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Given {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Bytes,
    pub(crate) trailers: Vec<(String, String)>,
    /// How long it takes.
    pub(crate) after: Duration,
}

impl Given {
    pub(crate) fn of(status: u16, body: impl Into<Bytes>) -> Self {
        Self {
            status,
            body: body.into(),
            ..Self::default()
        }
    }

    #[must_use]
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    #[must_use]
    pub(crate) fn after(mut self, time: Duration) -> Self {
        self.after = time;
        self
    }

    /// The answer of a unary gRPC call.
    pub(crate) fn grpc(message: &impl Message) -> Self {
        let mut body = BytesMut::new();
        body.put_u8(0);
        body.put_u32(u32::try_from(message.encoded_len()).unwrap());
        message.encode(&mut body).unwrap();
        let mut given = Self::of(200, body.freeze()).header("content-type", "application/grpc");
        given.trailers = vec![("grpc-status".to_owned(), "0".to_owned())];
        given
    }
}

type Answer = Box<dyn Fn(&Got) -> Given + Send>;
type Body = BoxBody<Bytes, Infallible>;

#[derive(Clone)]
struct Shared {
    seen: Arc<Mutex<Vec<Got>>>,
    answer: Arc<Mutex<Answer>>,
}

/// What a server speaks.
#[derive(Clone)]
pub(crate) struct Speaks {
    pub(crate) h2: bool,
    pub(crate) tls: Option<TlsAcceptor>,
}

impl Speaks {
    pub(crate) const HTTP: Self = Self {
        h2: false,
        tls: None,
    };
    pub(crate) const GRPC: Self = Self {
        h2: true,
        tls: None,
    };
}

/// A server; it and its connections end when it is dropped.
pub(crate) struct Server {
    shared: Shared,
    _tasks: JoinSet<()>,
}

impl Server {
    pub(crate) fn start(
        ns: &NetNs,
        port: u16,
        speaks: Speaks,
        answer: impl Fn(&Got) -> Given + Send + 'static,
    ) -> Result<Self> {
        let listener = ns.run_on_thread(|| {
            let socket = bind(port)?;
            socket.set_nonblocking(true)?;
            Ok::<_, std::io::Error>(socket)
        })??;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let shared = Shared {
            seen: Arc::default(),
            answer: Arc::new(Mutex::new(Box::new(answer))),
        };
        let mut tasks = JoinSet::new();
        let own = shared.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (own, speaks) = (own.clone(), speaks.clone());
                connections.spawn(async move {
                    match speaks.tls {
                        None => own.serve(stream, speaks.h2).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                own.serve(stream, speaks.h2).await;
                            }
                        }
                    }
                });
            }
        });
        Ok(Self {
            shared,
            _tasks: tasks,
        })
    }

    /// Answers so from now on.
    pub(crate) fn answer(&self, answer: impl Fn(&Got) -> Given + Send + 'static) {
        *self.shared.answer.lock().unwrap() = Box::new(answer);
    }

    /// Everything that came so far.
    pub(crate) fn seen(&self) -> Vec<Got> {
        self.shared.seen.lock().unwrap().clone()
    }
}

fn bind(port: u16) -> std::io::Result<std::net::TcpListener> {
    std::net::TcpListener::bind(("0.0.0.0", port))
}

impl Shared {
    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, h2: bool) {
        let io = TokioIo::new(stream);
        let service = service_fn(move |request| {
            let own = self.clone();
            async move { Ok::<_, Infallible>(own.respond(request).await) }
        });
        // The client's way to end a connection is no error of the test's.
        if h2 {
            let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = http.serve_connection(io, service).await;
        } else {
            let http = hyper::server::conn::http1::Builder::new();
            let _ = http.serve_connection(io, service).await;
        }
    }

    async fn respond(self, request: Request<Incoming>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map(|b| b.to_bytes());
        let got = Got {
            method: head.method.to_string(),
            path: head
                .uri
                .path_and_query()
                .map_or("", |p| p.as_str())
                .to_owned(),
            headers: head.headers,
            body: body.unwrap_or_default(),
        };
        let given = (self.answer.lock().unwrap())(&got);
        self.seen.lock().unwrap().push(got);
        tokio::time::sleep(given.after).await;
        let mut frames = vec![Frame::data(given.body)];
        if !given.trailers.is_empty() {
            frames.push(Frame::trailers(given.trailers.iter().map(field).collect()));
        }
        let frames = frames.into_iter().map(Ok::<_, Infallible>);
        let body = StreamBody::new(futures::stream::iter(frames));
        let mut response = Response::new(BodyExt::boxed(body));
        *response.status_mut() = given.status.try_into().unwrap();
        *response.headers_mut() = given.headers.iter().map(field).collect();
        response
    }
}

fn field((name, value): &(String, String)) -> (HeaderName, HeaderValue) {
    (name.parse().unwrap(), value.parse().unwrap())
}
