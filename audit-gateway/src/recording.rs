//! What has come of an answer.

/// How an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The provider's answer came to its end.
    Complete,
    /// The client left.
    CutByClient,
    /// The provider's connection broke within the answer, or fell silent.
    CutByProvider,
    /// The gateway was stopped.
    CutByGateway,
    /// There is no answer of the provider.
    Error,
}

impl Outcome {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::CutByClient => "cut_by_client",
            Self::CutByProvider => "cut_by_provider",
            Self::CutByGateway => "cut_by_gateway",
            Self::Error => "error",
        }
    }
}
