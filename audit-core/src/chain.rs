//! The MAC chain over one writer run's entries (`docs/format.md` §7).

use ed25519_dalek::{Signature, VerifyingKey};
use hpke::aead::AesGcm256;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::entry::{Entry, Opening};
use crate::error::{Error, Result};
use crate::hex::{Digest, Hex};
use crate::label::{label, lp};
use crate::seal::sha256;
use crate::secret::SecretKey;
use crate::time::IdSource;

/// The state of the chain: everything that the next MAC depends on.
#[derive(Clone, Debug)]
pub struct MacChain {
    run: Uuid,
    seq: u64,
    epoch: u64,
    previous: Digest,
    key: SecretKey,
    mac_key: SecretKey,
}

/// The member of an entry that its MAC isn't over, up to its digits; `epoch` always stands before it.
const MAC_MEMBER: &[u8] = b",\"mac\":\"";

/// HMAC-SHA256 (RFC 2104) with a key of 32 bytes, that leaves no copy of the key behind.
///
/// The crate `hmac` copies its key over the stack, where it stays for as long as nobody happens to write there. For
/// other keys that is no matter, since they live as long as the process; the keys of closed epochs must be gone.
fn hmac(key: &SecretKey, message: &[&[u8]], out: &mut [u8; 32]) {
    let mut block = Zeroizing::new([0_u8; 64]);
    // On the heap, since a moved state would leave a copy; the hash wipes itself when it is dropped.
    let mut hash = Box::new(Sha256::new());
    let mut digest = Zeroizing::new([0; 32]);
    for (pad, parts) in [(0x36, message), (0x5c, &[][..])] {
        for (i, byte) in block.iter_mut().enumerate() {
            *byte = key.expose().get(i).copied().unwrap_or(0) ^ pad;
        }
        hash.update(&block[..]);
        if pad == 0x5c {
            hash.update(&digest[..]);
        }
        for part in parts {
            hash.update(part);
        }
        sha2::Digest::finalize_into_reset(&mut *hash, (&mut *digest).into());
    }
    out.copy_from_slice(&digest[..]);
}

/// HKDF-SHA256 (RFC 5869) with an empty salt, one block of output.
fn derive(key: &SecretKey, info: &str) -> SecretKey {
    let no_salt = SecretKey::new([0; 32]);
    let extracted = SecretKey::filled(|prk| hmac(&no_salt, &[key.expose()], prk));
    SecretKey::filled(|out| hmac(&extracted, &[&label(info), &[1]], out))
}

impl MacChain {
    /// The chain of a run before its first entry.
    #[must_use]
    pub fn start(run: Uuid, k0: SecretKey) -> Self {
        let mac_key = derive(&k0, "mac");
        Self {
            run,
            seq: 0,
            epoch: 0,
            previous: Hex([0; 32]),
            key: k0,
            mac_key,
        }
    }

    /// The run.
    #[must_use]
    pub fn run(&self) -> Uuid {
        self.run
    }

    /// The sequence number that the next entry takes.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// The open epoch.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    fn mac(&self, entry: &Entry) -> Digest {
        self.mac_of(entry.seq, &sha256(&entry.without_mac()))
    }

    /// The MAC of an entry whose bytes without it hash to `unmaced`.
    fn mac_of(&self, seq: u64, unmaced: &Digest) -> Digest {
        let message: [&[u8]; 5] = [
            &label("mac"),
            self.run.as_bytes(),
            &seq.to_be_bytes(),
            &self.previous.0,
            &unmaced.0,
        ];
        let mut mac = Hex([0; 32]);
        hmac(&self.mac_key, &message, &mut mac.0);
        mac
    }

    /// Fills `run`, `seq`, `epoch` and `mac` of an entry, and moves on.
    pub fn append(&mut self, entry: &mut Entry) {
        entry.run = self.run;
        entry.seq = self.seq;
        entry.epoch = self.epoch;
        entry.mac = self.mac(entry);
        self.previous = entry.mac;
        self.seq += 1;
    }

    /// The same, and answers with the entry's canonical bytes: encoding them is most of the work, so it is done once.
    ///
    /// # Errors
    ///
    /// As [`Entry::encode`]; the chain stays where it was.
    pub fn append_encoded(&mut self, entry: &mut Entry) -> Result<Vec<u8>> {
        entry.run = self.run;
        entry.seq = self.seq;
        entry.epoch = self.epoch;
        entry.mac = Hex([0; 32]);
        let mut bytes = entry.encode()?;
        // No string can hold this: a quote in it would stand behind a backslash. And no other member is called so.
        let at = bytes
            .windows(MAC_MEMBER.len())
            .position(|window| window == MAC_MEMBER)
            .expect("every entry has a MAC, behind its epoch");
        let digits = at + MAC_MEMBER.len()..at + MAC_MEMBER.len() + 64;
        let mut hash = Sha256::new();
        hash.update(&bytes[..at]);
        // With the quote behind the digits.
        hash.update(&bytes[digits.end + 1..]);
        entry.mac = self.mac_of(entry.seq, &Hex(hash.finalize().into()));
        bytes[digits].copy_from_slice(crate::hex::encode(&entry.mac.0).as_bytes());
        self.previous = entry.mac;
        self.seq += 1;
        Ok(bytes)
    }

    /// Checks an entry against the chain, and moves on.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt) if it is not the chain's next entry.
    pub fn verify(&mut self, entry: &Entry) -> Result<()> {
        for (what, is, should) in [
            ("seq", entry.seq, self.seq),
            ("epoch", entry.epoch, self.epoch),
        ] {
            if is != should {
                return Err(Error::corrupt(format!(
                    "{what} of run {} is {is}, expected {should}",
                    self.run
                )));
            }
        }
        let expected = self.mac(entry);
        if entry.run != self.run || !bool::from(expected.0.ct_eq(&entry.mac.0)) {
            return Err(Error::corrupt(format!(
                "mac of run {} at seq {} is wrong",
                self.run, entry.seq
            )));
        }
        self.previous = entry.mac;
        self.seq += 1;
        Ok(())
    }

    /// Ends the epoch; the key of the epoch before is wiped.
    pub fn evolve(&mut self) {
        self.key = derive(&self.key, "evolve");
        self.mac_key = derive(&self.key, "mac");
        self.epoch += 1;
    }
}

fn run_key_info() -> Vec<u8> {
    label("run-key")
}

fn run_key_ad(origin: &str, run: Uuid) -> Vec<u8> {
    let mut ad = lp(origin.as_bytes());
    ad.extend_from_slice(run.as_bytes());
    ad
}

/// An [`IdSource`] as HPKE wants it.
struct Randomness<'a>(&'a dyn IdSource);

impl hpke::rand_core::TryRng for Randomness<'_> {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> std::result::Result<u32, Self::Error> {
        let mut bytes = [0; 4];
        self.0.fill(&mut bytes);
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> std::result::Result<u64, Self::Error> {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, dst: &mut [u8]) -> std::result::Result<(), Self::Error> {
        self.0.fill(dst);
        Ok(())
    }
}

impl hpke::rand_core::TryCryptoRng for Randomness<'_> {}

/// An X25519 public key to which run keys are sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditorPublicKey(pub Digest);

/// The auditor's private key.
#[derive(Debug, Clone)]
pub struct AuditorKey(SecretKey);

impl AuditorKey {
    /// A new key.
    #[must_use]
    pub fn random(ids: &dyn IdSource) -> Self {
        Self(SecretKey::random(ids))
    }

    /// From the 32 bytes of an X25519 private key.
    #[must_use]
    pub fn new(key: SecretKey) -> Self {
        Self(key)
    }

    /// The private bytes.
    #[must_use]
    pub fn expose(&self) -> &SecretKey {
        &self.0
    }

    fn private(&self) -> <X25519HkdfSha256 as Kem>::PrivateKey {
        <X25519HkdfSha256 as Kem>::PrivateKey::from_bytes(self.0.expose())
            .expect("any 32 bytes are an X25519 private key")
    }

    /// Its public half.
    #[must_use]
    pub fn public(&self) -> AuditorPublicKey {
        let public = X25519HkdfSha256::sk_to_pk(&self.private());
        let mut bytes = [0; 32];
        bytes.copy_from_slice(&public.to_bytes());
        AuditorPublicKey(Hex(bytes))
    }

    /// Opens a run's sealed K(0).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Key`](crate::ErrorKind::Key) if it isn't sealed to this key, for this log and run.
    pub fn open_run_key(&self, origin: &str, run: Uuid, sealed: &Hex<80>) -> Result<SecretKey> {
        let failed = || {
            Error::key(format!(
                "the sealed key of run {run} doesn't open with this auditor key"
            ))
        };
        let (enc, ciphertext) = sealed.0.split_at(32);
        let enc = <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(enc)
            .map_err(|e| failed().because(e.to_string()))?;
        let plain = hpke::single_shot_open::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
            &OpModeR::Base,
            &self.private(),
            &enc,
            &run_key_info(),
            ciphertext,
            &run_key_ad(origin, run),
        )
        .map_err(|e| failed().because(e.to_string()))?;
        let plain = Zeroizing::new(plain);
        let bytes: &[u8; 32] = plain
            .as_slice()
            .try_into()
            .map_err(|e: std::array::TryFromSliceError| failed().because(e))?;
        Ok(SecretKey::filled(|key| key.copy_from_slice(bytes)))
    }
}

impl AuditorPublicKey {
    /// Seals a run's K(0).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Key`](crate::ErrorKind::Key) if this is no usable X25519 key.
    pub fn seal_run_key(
        &self,
        origin: &str,
        run: Uuid,
        k0: &SecretKey,
        ids: &dyn IdSource,
    ) -> Result<Hex<80>> {
        let failed = |e: String| Error::key("the auditor key can't be sealed to").because(e);
        let public = <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(&self.0.0)
            .map_err(|e| failed(e.to_string()))?;
        let (enc, ciphertext) =
            hpke::single_shot_seal_with_rng::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
                &OpModeS::Base,
                &public,
                &run_key_info(),
                k0.expose(),
                &run_key_ad(origin, run),
                &mut Randomness(ids),
            )
            .map_err(|e| failed(e.to_string()))?;
        let sealed = [enc.to_bytes().as_slice(), &ciphertext].concat();
        let sealed = sealed
            .as_slice()
            .try_into()
            .map_err(|e: std::array::TryFromSliceError| failed(e.to_string()))?;
        Ok(Hex(sealed))
    }
}

/// The bytes that `log.signature` is over.
#[must_use]
pub fn signed_message(entry: &Entry) -> Vec<u8> {
    let mut message = label("log");
    message.extend_from_slice(&entry.without_signature());
    message
}

/// Checks the signature of one of the log's own entries, and answers with the key that made it; whether that is a
/// registered writer key is the caller's to check.
///
/// # Errors
///
/// [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt) if it isn't there or is wrong.
pub fn verify_signed(entry: &Entry) -> Result<Digest> {
    let wrong = || {
        Error::corrupt(format!(
            "signature of the {} entry of run {} is wrong",
            entry.kind, entry.run
        ))
    };
    let log = entry.log.as_ref().ok_or_else(wrong)?;
    let (signature, signer) = log.signature.zip(log.signer).ok_or_else(wrong)?;
    let key = VerifyingKey::from_bytes(&signer.0).map_err(|e| wrong().because(e))?;
    key.verify_strict(&signed_message(entry), &Signature::from_bytes(&signature.0))
        .map_err(|e| wrong().because(e))?;
    Ok(signer)
}

/// Checks the signature of a run's opening, and answers with it; whether its signer is a registered writer key is the
/// caller's to check.
///
/// # Errors
///
/// [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt) if it isn't there or is wrong.
pub fn verify_opening(entry: &Entry) -> Result<&Opening> {
    verify_signed(entry)?;
    entry
        .log
        .as_ref()
        .and_then(|l| l.opening.as_ref())
        .ok_or_else(|| Error::corrupt(format!("entry of kind {} opens no run", entry.kind)))
}

#[cfg(test)]
mod tests {
    use hkdf::Hkdf;
    use hmac::{Hmac, KeyInit, Mac};

    use super::*;
    use crate::time::{System, Timestamp};

    #[test]
    fn hmac_or_hkdf_differs_from_the_crates() {
        for n in 0..300 {
            let key = SecretKey::random(&System);
            let mut message = vec![0; n];
            System.fill(&mut message);
            let (one, two) = message.split_at(n / 3);
            let mut ours = [0; 32];
            hmac(&key, &[one, two], &mut ours);
            let mut theirs = Hmac::<Sha256>::new_from_slice(key.expose()).unwrap();
            theirs.update(&message);
            assert_eq!(
                ours,
                <[u8; 32]>::from(theirs.finalize().into_bytes()),
                "{n} bytes"
            );

            let mut theirs = [0; 32];
            Hkdf::<Sha256>::new(None, key.expose())
                .expand(&label("evolve"), &mut theirs)
                .unwrap();
            assert_eq!(*derive(&key, "evolve").expose(), theirs);
        }
    }

    #[test]
    fn a_chain_takes_an_entry_from_elsewhere() {
        let entry = |kind: &str| Entry {
            content: None,
            epoch: 0,
            event: System.uuid_v4(),
            key: None,
            keys: None,
            kind: crate::Kind::new(kind).unwrap(),
            log: None,
            mac: Hex([0; 32]),
            payloads: None,
            recorded: Timestamp::EPOCH,
            run: Uuid::nil(),
            seq: 0,
            time: Timestamp::EPOCH,
            tokens: None,
            v: 1,
        };
        let (run, k0) = (System.uuid_v4(), SecretKey::random(&System));
        let (mut one, mut other) = (
            MacChain::start(run, k0.clone()),
            MacChain::start(run, k0.clone()),
        );
        for n in 0..300_u64 {
            let (mut a, mut b) = (entry("llm.request"), entry("llm.request"));
            b.event = a.event;
            one.append(&mut a);
            let bytes = other.append_encoded(&mut b).unwrap();
            assert_eq!(
                a.encode().unwrap(),
                bytes,
                "the two ways of appending, entry {n}"
            );
            assert_eq!(Entry::decode(&bytes).unwrap(), b);
        }
        let mut writer = MacChain::start(run, k0.clone());
        let mut entries: Vec<Entry> = (0..6).map(|n| entry(&format!("kind.{n}"))).collect();
        for (n, entry) in entries.iter_mut().enumerate() {
            writer.append(entry);
            if n % 2 == 1 {
                writer.evolve();
            }
        }
        let walk = |entries: &[Entry]| -> Option<usize> {
            let mut auditor = MacChain::start(run, k0.clone());
            entries.iter().enumerate().find_map(|(n, entry)| {
                let wrong = auditor.verify(entry).is_err().then_some(n);
                if n % 2 == 1 {
                    auditor.evolve();
                }
                wrong
            })
        };
        assert_eq!(walk(&entries), None);
        for n in 0..6 {
            let mut changed = entries.clone();
            changed[n].mac.0[0] ^= 1;
            assert_eq!(walk(&changed), Some(n), "a flipped bit");
            let mut changed = entries.clone();
            changed[n].kind = crate::Kind::new("other").unwrap();
            assert_eq!(walk(&changed), Some(n), "another content");
            let mut changed = entries.clone();
            changed.remove(n);
            assert_eq!(walk(&changed), (n < 5).then_some(n), "a missing entry");
            let mut changed = entries.clone();
            changed.insert(n, entries[n].clone());
            assert_eq!(walk(&changed), Some(n + 1), "a copy");
        }
        // The key of the second epoch makes no MAC of the first.
        let mut late = MacChain::start(run, k0.clone());
        late.evolve();
        late.epoch = 0;
        let mut forged = entries[0].clone();
        late.append(&mut forged);
        assert_ne!(forged.mac, entries[0].mac);
        // Another run's K(0) doesn't either.
        let mut other = MacChain::start(run, SecretKey::random(&System));
        other.verify(&entries[0]).unwrap_err();
    }
}
