//! Certificates for development: an authority, a certificate of it for the callback listener and, if wanted, one that
//! stands for the gateway. Not for production: the authority's key lies in a file.

use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};

use super::out::say;
use crate::clock::Clock;

/// An authority may sign for longer than one of its certificates lives.
const AUTHORITY_DAYS: u32 = 3650;
/// Clocks differ.
const EARLIER: Duration = Duration::hours(1);
/// For keys: nobody but the owner.
const PRIVATE: u32 = 0o600;
const PUBLIC: u32 = 0o644;

#[derive(Debug, Args)]
pub(super) struct DevCertArgs {
    /// Names and addresses by which the gateway reaches the callback listener; localhost, 127.0.0.1 and ::1 when none is
    /// given.
    names: Vec<String>,
    /// The folder that the files are written to; made when it is not there.
    #[arg(long, short, default_value = ".")]
    out: PathBuf,
    /// Days for which the certificates are good.
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
    /// Also make a certificate that stands for the gateway, for `client_certificates`.
    #[arg(long)]
    client: bool,
}

/// A file to be written.
struct Draft {
    name: &'static str,
    text: String,
    mode: u32,
}

pub(super) fn run(args: &DevCertArgs) -> anyhow::Result<ExitCode> {
    let names = names(&args.names)?;
    let drafts = drafts(&names, args.days, args.client)?;
    std::fs::create_dir_all(&args.out)
        .with_context(|| format!("cannot make the folder {}", args.out.display()))?;
    let folder = args.out.canonicalize().with_context(|| args.out.display().to_string())?;
    write_all(&folder, &drafts)?;
    say!("{}", what_to_do(&folder, &names, args.client).trim_end());
    Ok(ExitCode::SUCCESS)
}

/// Names as a certificate can have them: a host's, with a star in the first part or without, or an address.
fn names(given: &[String]) -> anyhow::Result<Vec<String>> {
    if given.is_empty() {
        return Ok(["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec());
    }
    for name in given {
        let host = name.strip_prefix("*.").unwrap_or(name);
        let part = |part: &str| {
            let plain = part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
            plain && (1..=63).contains(&part.len()) && !part.starts_with('-') && !part.ends_with('-')
        };
        let is_host = host.len() <= 253 && host.split('.').all(part);
        if name.parse::<IpAddr>().is_err() && !is_host {
            bail!("{name:?} is neither a host's name nor an address, such as relay.example or 10.1.2.3");
        }
    }
    Ok(given.to_vec())
}

fn drafts(names: &[String], days: u32, client: bool) -> anyhow::Result<Vec<Draft>> {
    let mut ca = params(Vec::new(), "ccrelay development CA", AUTHORITY_DAYS)?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate()?)?;
    let mut drafts = vec![
        Draft { name: "ca.pem", text: ca.pem(), mode: PUBLIC },
        Draft { name: "ca.key", text: ca.key().serialize_pem(), mode: PRIVATE },
    ];
    let mut leaf = |subject: &str, names: &[String], usage, files: [&'static str; 2]| {
        let mut leaf = params(names.to_vec(), subject, days)?;
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![usage];
        leaf.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let chain = leaf.signed_by(&key, &ca)?.pem();
        drafts.push(Draft { name: files[0], text: chain, mode: PUBLIC });
        drafts.push(Draft { name: files[1], text: key.serialize_pem(), mode: PRIVATE });
        anyhow::Ok(())
    };
    let subject = names.first().map_or("ccrelay", String::as_str);
    leaf(subject, names, ExtendedKeyUsagePurpose::ServerAuth, ["certificate.pem", "key.pem"])?;
    if client {
        let usage = ExtendedKeyUsagePurpose::ClientAuth;
        leaf("development gateway", &[], usage, ["client.pem", "client.key"])?;
    }
    Ok(drafts)
}

fn params(names: Vec<String>, subject: &str, days: u32) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::new(names).context("a name that no certificate can have")?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, subject);
    let now = i64::try_from(Clock::system().now().millis() / 1000).unwrap_or(i64::MAX);
    let now = OffsetDateTime::from_unix_timestamp(now).context("the clock is wrong")?;
    params.not_before = now - EARLIER;
    params.not_after = now + Duration::days(days.into());
    Ok(params)
}

/// Writes all files, or none that was not there before: nothing is ever written over.
fn write_all(folder: &Path, drafts: &[Draft]) -> anyhow::Result<()> {
    let taken = |draft: &&Draft| folder.join(draft.name).symlink_metadata().is_ok();
    if let Some(draft) = drafts.iter().find(taken) {
        bail!(
            "{} is there already and nothing is written over: take it away, or name another folder with --out",
            folder.join(draft.name).display()
        );
    }
    for (at, draft) in drafts.iter().enumerate() {
        let path = folder.join(draft.name);
        let mut options = std::fs::OpenOptions::new();
        // Never through a link, nor into what came in between.
        let file = options.create_new(true).write(true).mode(draft.mode).open(&path);
        let written = file.and_then(|mut file| {
            file.write_all(draft.text.as_bytes())?;
            file.sync_all()
        });
        if let Err(error) = written {
            for draft in &drafts[..at] {
                drop(std::fs::remove_file(folder.join(draft.name)));
            }
            return Err(error).with_context(|| format!("cannot write {}", path.display()));
        }
    }
    Ok(())
}

fn what_to_do(folder: &Path, names: &[String], client: bool) -> String {
    let file = |name: &str| toml::Value::from(folder.join(name).display().to_string()).to_string();
    let (ca, chain, key) = (file("ca.pem"), file("certificate.pem"), file("key.pem"));
    let mut text = format!(
        "# For development. Into config.toml:\n[callback]\ncertificate_file = {chain}\nkey_file = {key}\n"
    );
    if client {
        text.push_str(&format!("client_certificates = \"required\"\nclient_ca_file = {ca}\n"));
    }
    let host = names.first().map_or("localhost", String::as_str);
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    text.push_str(&format!(
        "# callback_uri of [[gateways]] begins with https://{host}:8443/push/\n\
         # The gateway has to trust {ca}: docs/tls.md says how.\n"
    ));
    if client {
        let (chain, key) = (file("client.pem"), file("client.key"));
        text.push_str(&format!("# The gateway's own certificate and key: {chain} {key}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn args(out: &Path, names: &[&str], client: bool) -> DevCertArgs {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        DevCertArgs { names, out: out.into(), days: 30, client }
    }

    #[test]
    fn keys_are_for_the_owner_alone_and_nothing_is_written_over() {
        let folder = tempfile::TempDir::new().unwrap();
        let out = folder.path().join("new");
        run(&args(&out, &["relay.example", "10.1.2.3", "*.relay.example"], true)).unwrap();
        for (name, mode) in
            [("ca.key", 0o600), ("key.pem", 0o600), ("client.key", 0o600), ("certificate.pem", 0o644)]
        {
            let found = std::fs::metadata(out.join(name)).unwrap().permissions().mode() & 0o777;
            assert_eq!(found & !mode, 0, "{name}: {found:o}");
        }
        let before = std::fs::read_to_string(out.join("key.pem")).unwrap();
        for again in [true, false] {
            let said = run(&args(&out, &[], again)).unwrap_err().to_string();
            assert!(said.contains("ca.pem is there already"), "{said}");
        }
        assert_eq!(std::fs::read_to_string(out.join("key.pem")).unwrap(), before);
    }

    #[test]
    fn a_link_in_the_folder_is_not_followed_and_leaves_no_half() {
        let folder = tempfile::TempDir::new().unwrap();
        let elsewhere = folder.path().join("elsewhere");
        std::os::unix::fs::symlink(&elsewhere, folder.path().join("key.pem")).unwrap();
        assert!(run(&args(folder.path(), &[], false)).is_err());
        assert!(!elsewhere.exists() && !folder.path().join("ca.pem").exists());
    }

    #[test]
    fn what_is_printed_is_a_configuration_that_fits_the_files() {
        let folder = tempfile::TempDir::new().unwrap();
        run(&args(folder.path(), &["::1", "relay.example"], true)).unwrap();
        let names = ["::1".to_owned(), "relay.example".to_owned()];
        let text = what_to_do(folder.path(), &names, true);
        assert!(text.contains("https://[::1]:8443/push/"), "{text}");
        let gateway = "[[gateways]]\nname = 'main'\nbase_url = 'https://gw:1/x'\n\
                       callback_uri = 'https://relay.example:8443/push/main'\n";
        let file = folder.path().join("config.toml");
        let ca = folder.path().join("ca.pem");
        std::fs::write(&file, format!("{text}{gateway}ca_file = '{}'\n", ca.display())).unwrap();
        let config = crate::config::load(&file).unwrap();
        assert!(config.callback.tls.from.clients.is_some_and(|clients| clients.required));
    }

    #[test]
    fn names_that_no_certificate_can_have_are_refused() {
        for name in ["", "a b", "-x.example", "x..example", "a.*.example", "https://x", "x:8443", "ü.example"]
        {
            assert!(names(&[name.to_owned()]).is_err(), "{name:?}");
        }
        assert_eq!(names(&[]).unwrap().len(), 3);
    }
}
