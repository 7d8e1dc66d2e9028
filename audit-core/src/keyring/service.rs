//! The operating system's secret service, over D-Bus.

#[cfg(feature = "keyring")]
pub(super) use with::{create, read};
#[cfg(not(feature = "keyring"))]
pub(super) use without::{create, read};

#[cfg(feature = "keyring")]
mod with {
    use keyring_core::api::CredentialStoreApi as _;
    use keyring_core::{Entry, Error as StoreError};
    use zbus_secret_service_keyring_store::Store;
    use zeroize::Zeroizing;

    use crate::error::{Error, Result};

    const USER: &str = "key-ring";

    /// The entry of a service; the connection to the bus lives as long as it.
    fn entry(service: &str, what: &str) -> Result<Entry> {
        let store = Store::new().map_err(|e| failed(what, &e))?;
        store
            .build(service, USER, None)
            .map_err(|e| failed(what, &e))
    }

    /// The message only: other parts of the error may hold what was read.
    fn failed(what: &str, error: &StoreError) -> Error {
        match error {
            StoreError::NoEntry => Error::key(format!("{what} isn't there")),
            StoreError::PlatformFailure(e) | StoreError::NoStorageAccess(e) => {
                Error::unavailable(format!("{what}: the secret service doesn't answer"))
                    .because(e.to_string())
            }
            StoreError::Ambiguous(_) => Error::key(format!(
                "{what} is there more than once in the secret service"
            )),
            StoreError::BadDataFormat(..) | StoreError::BadEncoding(_) => Error::key(format!(
                "{what} holds what the secret service can't have written"
            )),
            other => Error::key(format!("{what} can't be used")).because(other.to_string()),
        }
    }

    pub(crate) fn read(service: &str, what: &str) -> Result<Zeroizing<Vec<u8>>> {
        entry(service, what)?
            .get_secret()
            .map(Zeroizing::new)
            .map_err(|e| failed(what, &e))
    }

    pub(crate) fn create(service: &str, what: &str, secret: &[u8]) -> Result<()> {
        let entry = entry(service, what)?;
        match entry.get_secret().map(Zeroizing::new) {
            Err(StoreError::NoEntry) => {}
            Ok(_) | Err(StoreError::Ambiguous(_)) => {
                return Err(Error::invalid(format!(
                    "{what} exists already, and is never overwritten"
                )));
            }
            Err(e) => return Err(failed(what, &e)),
        }
        entry.set_secret(secret).map_err(|e| failed(what, &e))?;
        // The service has no "create only": of two that store at once both may get here, and only one ring is kept.
        match entry.get_secret().map(Zeroizing::new) {
            Ok(kept) if kept.as_slice() == secret => Ok(()),
            Ok(_) => Err(Error::invalid(format!(
                "{what} was stored by somebody else at the same time"
            ))),
            Err(e) => Err(failed(what, &e)),
        }
    }
}

#[cfg(not(feature = "keyring"))]
mod without {
    use zeroize::Zeroizing;

    use crate::error::{Error, Result};

    fn refused(what: &str) -> Error {
        Error::invalid(format!(
            "{what} can't be used: this program is built without keyring support"
        ))
    }

    pub(crate) fn read(_: &str, what: &str) -> Result<Zeroizing<Vec<u8>>> {
        Err(refused(what))
    }

    pub(crate) fn create(_: &str, what: &str, _: &[u8]) -> Result<()> {
        Err(refused(what))
    }
}
