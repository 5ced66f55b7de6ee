//! What a caller may do: a role for each method, and the judgement in front of the services.
//!
//! Over TLS a client has the roles that its certificate names as organizational units: `submit`, `read`,
//! `admin`; `admin` may read too. In plaintext nobody has a name, and so anybody may submit and read, while
//! what changes the node is taken from this host only. A method that is not in the table needs `admin`.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::{Either, Ready, ready};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::NamedService;

use super::refusals::{Place, Reason, Refusals};
use super::stream::Caller;

/// What a client may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Hand in transactions.
    Submit,
    /// See blocks, proofs and the state of the node.
    Read,
    /// Change the node.
    Admin,
}

impl Role {
    const ALL: [Self; 3] = [Self::Submit, Self::Read, Self::Admin];

    /// Its name, which is the organizational unit in a certificate.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Submit => "submit",
            Self::Read => "read",
            Self::Admin => "admin",
        }
    }

    /// What a gRPC method needs.
    pub fn of_method(path: &str) -> Self {
        match path {
            "/consensus.ordering.v1.Ordering/Submit" | "/consensus.ordering.v1.Ordering/SubmitStream" => {
                Self::Submit
            }
            "/consensus.ordering.v1.Ordering/Deliver"
            | "/consensus.ordering.v1.Ordering/GetBlock"
            | "/consensus.ordering.v1.Ordering/GetTransaction"
            | "/consensus.ordering.v1.Ordering/Tip"
            | "/consensus.ordering.v1.Ordering/Prove"
            | "/consensus.admin.v1.Admin/Status" => Self::Read,
            _ if path.starts_with("/grpc.health.v1.Health/")
                || path.starts_with("/grpc.reflection.v1.ServerReflection/") =>
            {
                Self::Read
            }
            _ => Self::Admin,
        }
    }
}

/// The roles of one client.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Roles {
    submit: bool,
    read: bool,
    admin: bool,
}

impl Roles {
    /// Of the organizational units of a certificate; other units mean nothing here.
    pub fn of<'a>(units: impl Iterator<Item = &'a str>) -> Self {
        let mut roles = Self::default();
        for unit in units {
            match unit {
                "submit" => roles.submit = true,
                "read" => roles.read = true,
                "admin" => roles.admin = true,
                _ => {}
            }
        }
        roles
    }

    /// Whether they cover `role`.
    pub fn cover(self, role: Role) -> bool {
        match role {
            Role::Submit => self.submit,
            Role::Read => self.read || self.admin,
            Role::Admin => self.admin,
        }
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has = |role: &Role| match role {
            Role::Submit => self.submit,
            Role::Read => self.read,
            Role::Admin => self.admin,
        };
        let names: Vec<&str> = Role::ALL.iter().filter(|role| has(role)).map(|role| role.as_str()).collect();
        f.write_str(if names.is_empty() { "none" } else { "" })?;
        f.write_str(&names.join(", "))
    }
}

/// Why a caller may not do something, in words for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Denied {
    pub(super) reason: Reason,
    /// In words.
    pub what: String,
}

/// Whether a caller may do what `role` is for.
///
/// # Errors
/// Why not.
pub fn authorize(caller: &Caller, role: Role) -> Result<(), Denied> {
    let Some(certificate) = &caller.certificate else {
        // Changes are for who is on this host: there is no other name to go by.
        let from = caller.remote.ip().to_canonical();
        if role == Role::Admin && !from.is_loopback() {
            let what = format!(
                "this listener speaks plaintext, so what changes the node is taken over its own host's loopback \
                 interface only, and this call came from {from}: call 127.0.0.1 or [::1] on the node's host, where \
                 the listener has to be open, too, or give nodes and operators certificates ([security], role \
                 \"admin\")"
            );
            return Err(Denied { reason: Reason::NotThisHost, what });
        }
        return Ok(());
    };
    if certificate.roles.cover(role) {
        return Ok(());
    }
    let what = format!(
        "needs the role {:?}, the certificate of {} has: {}",
        role.as_str(),
        certificate.subject,
        certificate.roles
    );
    Err(Denied { reason: Reason::Role, what })
}

/// A service of which each caller uses what it may.
#[derive(Clone, Debug)]
pub struct Authorized<S> {
    inner: S,
    refusals: Arc<Refusals>,
}

impl<S> Authorized<S> {
    /// Refusals are told to `refusals`.
    pub fn new(inner: S, refusals: Arc<Refusals>) -> Self {
        Self { inner, refusals }
    }

    fn judge(&self, request: &http::Request<Body>) -> Result<(), Status> {
        let path = request.uri().path();
        let Some(caller) = request.extensions().get::<Caller>() else {
            return Err(Status::internal("the connection does not say who calls"));
        };
        authorize(caller, Role::of_method(path)).map_err(|Denied { reason, what }| {
            let method = path.rsplit('/').next().unwrap_or(path);
            let method: String = method.chars().filter(char::is_ascii_alphanumeric).take(64).collect();
            let what = format!("{method}: {what}");
            self.refusals.refused(Place::Client, reason, caller, &what);
            Status::permission_denied(what)
        })
    }
}

impl<S: NamedService> NamedService for Authorized<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Authorized<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<S::Response, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        match self.judge(&request) {
            Ok(()) => Either::Left(self.inner.call(request)),
            Err(status) => Either::Right(ready(Ok(status.into_http()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::config::Pin;
    use crate::security::Certificate;

    fn caller(remote: &str, units: Option<&[&str]>) -> Caller {
        let remote: SocketAddr = remote.parse().expect("an address");
        let certificate = units.map(|units| {
            Arc::new(Certificate {
                subject: "CN=alice".to_owned(),
                pin: Pin::of_public_key(b"key"),
                roles: Roles::of(units.iter().copied()),
                not_before: 0,
                not_after: 0,
            })
        });
        Caller::uncounted(remote, certificate)
    }

    #[test]
    fn each_role_covers_its_own_and_admin_may_read() {
        for (units, allowed) in [
            (&["submit"][..], &[Role::Submit][..]),
            (&["read"], &[Role::Read]),
            (&["admin"], &[Role::Read, Role::Admin]),
            (&["submit", "read"], &[Role::Submit, Role::Read]),
            (&[], &[]),
            (&["Admin", "administration", "submit "], &[]),
        ] {
            for role in Role::ALL {
                let judged = authorize(&caller("127.0.0.1:1", Some(units)), role);
                assert_eq!(judged.is_ok(), allowed.contains(&role), "{units:?} {role:?}");
            }
        }
    }

    #[test]
    fn without_certificates_only_this_host_changes_the_node() {
        for (remote, admin) in [
            ("127.0.0.1:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("192.0.2.1:1", false),
            ("[2001:db8::1]:1", false),
        ] {
            let caller = caller(remote, None);
            assert!(authorize(&caller, Role::Submit).is_ok() && authorize(&caller, Role::Read).is_ok());
            assert_eq!(authorize(&caller, Role::Admin).is_ok(), admin, "{remote}");
        }
    }

    #[test]
    fn a_refusal_in_plaintext_names_the_caller_and_both_ways_out() {
        let denied = authorize(&caller("[::ffff:192.0.2.1]:9", None), Role::Admin).expect_err("another host");
        assert_eq!(denied.reason, Reason::NotThisHost);
        for words in ["speaks plaintext", "came from 192.0.2.1", "127.0.0.1", "certificates", "\"admin\""] {
            assert!(denied.what.contains(words), "{words} in {}", denied.what);
        }
    }

    #[test]
    fn a_refusal_names_the_role_the_holder_and_what_it_has() {
        let denied = authorize(&caller("127.0.0.1:1", Some(&["submit", "read"])), Role::Admin);
        let what = "needs the role \"admin\", the certificate of CN=alice has: submit, read".to_owned();
        assert_eq!(denied, Err(Denied { reason: Reason::Role, what }));
    }

    #[test]
    fn what_changes_the_node_or_is_unknown_needs_admin() {
        for (path, role) in [
            ("/consensus.ordering.v1.Ordering/Submit", Role::Submit),
            ("/consensus.ordering.v1.Ordering/SubmitStream", Role::Submit),
            ("/consensus.ordering.v1.Ordering/Deliver", Role::Read),
            ("/consensus.ordering.v1.Ordering/Prove", Role::Read),
            ("/consensus.admin.v1.Admin/Status", Role::Read),
            ("/consensus.admin.v1.Admin/TransferLeader", Role::Admin),
            ("/consensus.admin.v1.Admin/SetLogFilter", Role::Admin),
            ("/consensus.admin.v1.Admin/VoidBlock", Role::Admin),
            ("/grpc.health.v1.Health/Check", Role::Read),
            ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Role::Read),
            ("/consensus.ordering.v1.Ordering/Tomorrow", Role::Admin),
            ("/", Role::Admin),
        ] {
            assert_eq!(Role::of_method(path), role, "{path}");
        }
    }
}
