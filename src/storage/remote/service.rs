//! The HTTP client under a store: waits as long as a server asks for, bounds what is read of its errors and lists.

use std::pin::Pin;
use std::time::Duration;

use base64::Engine;
use futures_util::StreamExt;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};
use object_store::{ClientOptions, HeaderValue};

use super::options::Cloud;

/// The most that is read of an error's text.
const ERROR_BYTES: usize = 1 << 16;
/// The most that is read of a list: one page has a thousand names.
const LIST_BYTES: usize = 1 << 26;

/// Where clouds tell a machine what role it has. Elsewhere there is no such server.
const OF_ROLES: [&str; 3] = ["169.254.169.254", "169.254.170.2", "metadata.google.internal"];
/// How often one of these is asked: it is near, or not there.
const TRIES: usize = 3;

/// Who asks a web server.
pub enum Login<'a> {
    Password(&'a str, &'a str),
    Bearer(&'a str),
}

/// Makes the clients of one store.
#[derive(Debug, Clone)]
pub struct Connector {
    /// The header that says who asks.
    authorization: Option<HeaderValue>,
    /// The longest that a server may ask to wait.
    patience: Duration,
    /// Which server it is: some know less than others.
    cloud: Cloud,
}

impl Connector {
    /// Clients that ask as somebody, if there is a login.
    pub fn new(login: Option<Login<'_>>, patience: Duration, cloud: Cloud) -> Self {
        let authorization = login.and_then(|login| {
            let text = match login {
                Login::Password(name, password) => {
                    let both = format!("{name}:{password}");
                    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(both))
                }
                Login::Bearer(token) => format!("Bearer {token}"),
            };
            let mut value = HeaderValue::from_str(&text).ok()?;
            value.set_sensitive(true);
            Some(value)
        });
        Self { authorization, patience, cloud }
    }
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let inner = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Client { inner, connector: self.clone() }))
    }
}

#[derive(Debug)]
struct Client {
    inner: HttpClient,
    connector: Connector,
}

impl Client {
    async fn answer(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        if let Some(authorization) = &self.connector.authorization {
            request.headers_mut().insert("authorization", authorization.clone());
        }
        let query = request.uri().query().unwrap_or_default();
        let is_list =
            request.method().as_str() == "PROPFIND" || query.contains("list-type=") || query.contains("comp=list");
        if request.uri().host().is_some_and(|host| OF_ROLES.contains(&host)) {
            return self.ask_for_role(request).await;
        }
        let (is_head, cloud) = (request.method().as_str() == "HEAD", self.connector.cloud);
        if cloud == Cloud::Hub && request.method().as_str() == "PROPFIND" {
            let text = "files of the hub are not listed";
            return Err(HttpError::new(HttpErrorKind::Unknown, std::io::Error::other(text)));
        }
        // The hub redirects to addresses that are signed for GET alone, as other servers may.
        let response = if is_head && cloud == Cloud::Hub {
            sized(self.inner.execute(by_range(request)).await?)
        } else {
            let again = (is_head && cloud == Cloud::Web).then(|| by_range(request.clone()));
            let response = self.inner.execute(request).await?;
            match again.filter(|_| matches!(response.status().as_u16(), 403 | 405 | 501)) {
                Some(again) => sized(self.inner.execute(again).await?),
                None => response,
            }
        };
        if response.status().is_success() {
            return if is_list { whole(response, LIST_BYTES).await } else { Ok(response) };
        }
        if matches!(response.status().as_u16(), 429 | 503)
            && let Some(asked) = retry_after(&response)
        {
            if asked > self.connector.patience {
                let text =
                    format!("the server is busy ({}) and asks to wait for {} s", response.status(), asked.as_secs());
                return Err(HttpError::new(HttpErrorKind::Unknown, std::io::Error::other(text)));
            }
            tokio::time::sleep(asked).await;
        }
        whole(response, ERROR_BYTES).await
    }

    /// The answer of a server of roles. That there is none is no fault of the network, and waiting does not help.
    async fn ask_for_role(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        for _ in 1..TRIES {
            match self.inner.execute(request.clone()).await {
                Err(e) if matches!(e.kind(), HttpErrorKind::Connect | HttpErrorKind::Timeout) => {}
                answer => return answer,
            }
        }
        self.inner.execute(request).await.map_err(|e| {
            let text = format!("no credentials were found, and this machine has no role either ({e})");
            HttpError::new(HttpErrorKind::Unknown, std::io::Error::other(text))
        })
    }
}

/// A request for HEAD as one for the first byte.
fn by_range(mut request: HttpRequest) -> HttpRequest {
    if let Ok(get) = "GET".parse() {
        *request.method_mut() = get;
    }
    request.headers_mut().insert("range", HeaderValue::from_static("bytes=0-0"));
    request
}

/// The answer to a request for the first byte as that to HEAD: a file without one is refused, and its size told too.
fn sized(response: HttpResponse) -> HttpResponse {
    let range = response.headers().get("content-range").and_then(|range| range.to_str().ok());
    let size = range.and_then(|range| range.rsplit_once('/')?.1.parse::<u64>().ok());
    if size.is_none() && !response.status().is_success() {
        return response;
    }
    let (mut parts, _) = response.into_parts(); // a body that is the whole file is not read
    if let Some(size) = size {
        parts.status = 200_u16.try_into().unwrap_or(parts.status);
        parts.headers.remove("content-range");
        parts.headers.insert("content-length", HeaderValue::from(size));
    }
    HttpResponse::from_parts(parts, Vec::new().into())
}

// As the macro `async_trait` writes it.
impl HttpService for Client {
    fn call<'a, 'b>(
        &'a self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(self.answer(request))
    }
}

/// The time that a server asks to wait for, which it says in seconds or as a date.
fn retry_after(response: &HttpResponse) -> Option<Duration> {
    let asked = response.headers().get("retry-after")?.to_str().ok()?.trim();
    if let Ok(seconds) = asked.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = chrono::DateTime::parse_from_rfc2822(asked).ok()?;
    let seconds = u64::try_from(date.timestamp()).ok()?;
    let date = std::time::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))?;
    Some(date.duration_since(std::time::SystemTime::now()).unwrap_or_default())
}

/// A response of at most `most` bytes, read whole. A longer error is cut, a longer list is an error.
async fn whole(response: HttpResponse, most: usize) -> Result<HttpResponse, HttpError> {
    let (parts, body) = response.into_parts();
    let (mut bytes, mut body) = (Vec::new(), body.bytes_stream());
    while let Some(part) = body.next().await {
        let part = part?;
        let room = most - bytes.len();
        if part.len() > room {
            if parts.status.is_success() {
                let text = format!("a list of more than {most} bytes");
                return Err(HttpError::new(HttpErrorKind::Unknown, std::io::Error::other(text)));
            }
            bytes.extend_from_slice(&part[..room]);
            break;
        }
        bytes.extend_from_slice(&part);
    }
    Ok(HttpResponse::from_parts(parts, bytes.into()))
}
