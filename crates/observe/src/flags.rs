//! Response flags (`waypoint-contract` 6.3).

use std::fmt;

macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)+) => {
        /// Why a response is what it is.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum ResponseFlag { $($(#[$doc])* $name,)+ }

        impl ResponseFlag {
            /// Every flag, in the order in which several are written.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The flag's text.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }
        }
    };
}

flags! {
    /// No healthy upstream.
    NoHealthyUpstream = "UH",
    /// The upstream couldn't be reached.
    UpstreamConnect = "UF",
    /// A circuit breaker is open.
    UpstreamOverflow = "UO",
    /// No route, or no chain for the destination.
    NoRoute = "NR",
    /// The route's backend doesn't exist.
    NoCluster = "NC",
    /// Retries or connect attempts are used up.
    RetryLimit = "URX",
    /// The upstream took too long.
    UpstreamTimeout = "UT",
    /// The upstream closed the connection.
    UpstreamClosed = "UC",
    /// The upstream reset the stream.
    UpstreamReset = "UR",
    /// Reset here.
    LocalReset = "LR",
    /// A health check of this proxy failed.
    FailedHealthCheck = "LH",
    /// A name didn't resolve.
    DnsFailure = "DF",
    /// Dropped to shed load.
    DropOverload = "DO",
    /// The client reset the stream.
    DownstreamReset = "DR",
    /// The client went away.
    DownstreamClosed = "DC",
    /// The client broke the protocol.
    DownstreamProtocol = "DPE",
    /// The upstream broke the protocol.
    UpstreamProtocol = "UPE",
    /// The stream was open for too long.
    MaxStreamDuration = "UMSDR",
    /// The stream was idle for too long.
    StreamIdle = "SI",
    /// The connection was open for too long.
    ConnectionDuration = "DT",
    /// Overloaded.
    Overload = "OM",
    /// A header is forbidden.
    InvalidHeader = "IH",
    /// Rate limited.
    RateLimited = "RL",
    /// The rate limiter failed.
    RateLimiterError = "RLSE",
    /// An authorization provider denied it, or failed.
    ExtAuthz = "UAEX",
    /// A delay was injected.
    DelayInjected = "DI",
    /// An abort was injected.
    FaultInjected = "FI",
    /// A filter's configuration is missing.
    FilterConfig = "NFCF",
    /// A backend's configuration is missing.
    ClusterFetch = "RFCF",
}

/// Several flags, in few bytes. Displays `UF,URX`, or `-` for none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResponseFlags(u32);

impl ResponseFlags {
    /// None.
    pub const NONE: Self = Self(0);

    /// Adds one.
    pub fn insert(&mut self, flag: ResponseFlag) {
        self.0 |= 1 << flag as u32;
    }

    /// With one more.
    #[must_use]
    pub fn with(mut self, flag: ResponseFlag) -> Self {
        self.insert(flag);
        self
    }

    /// Whether one is set.
    pub fn contains(self, flag: ResponseFlag) -> bool {
        self.0 & (1 << flag as u32) != 0
    }

    /// Whether none is set.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// A number that stands for the set.
    pub fn bits(self) -> u32 {
        self.0
    }
}

impl From<ResponseFlag> for ResponseFlags {
    fn from(flag: ResponseFlag) -> Self {
        Self::NONE.with(flag)
    }
}

impl From<Option<ResponseFlag>> for ResponseFlags {
    fn from(flag: Option<ResponseFlag>) -> Self {
        flag.map_or(Self::NONE, Self::from)
    }
}

impl fmt::Display for ResponseFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("-");
        }
        let set = ResponseFlag::ALL
            .iter()
            .filter(|flag| self.contains(**flag));
        for (index, flag) in set.enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{}", flag.as_str())?;
        }
        Ok(())
    }
}
