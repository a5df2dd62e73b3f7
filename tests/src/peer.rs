//! Other people's programs as peers: run in the foreground, with a configuration of their own, on this test's addresses.

use std::fmt::Write;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::process::Process;
use crate::stage::{Stage, skip};

/// Where programs of administrators lie that a user's PATH may leave out.
const ELSEWHERE: [&str; 2] = ["/usr/sbin", "/usr/local/sbin"];
/// Where Debian keeps nginx's stream module, which some builds have inside.
const NGINX_STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// Finds a program.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(ELSEWHERE.map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|program| program.is_file())
}

/// The library of Debian's faketime that shifts a process's clock, or says that it is missing and skips. Its program would stand
/// between the harness and the process.
pub fn faketime() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let found =
        folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1")).find(|path| path.exists());
    if found.is_none() {
        skip("libfaketimeMT.so.1 is not installed (faketime)");
    }
    found
}

/// Finds all of them, or says which is missing and skips.
pub fn all<const N: usize>(names: [&str; N]) -> Option<[PathBuf; N]> {
    let found = names.map(find);
    if let Some(missing) = names.iter().zip(&found).find(|(_, found)| found.is_none()) {
        skip(&format!("{} is not installed", missing.0));
        return None;
    }
    Some(found.map(Option::unwrap_or_default))
}

/// What a program says on its standard output; it must succeed.
pub async fn said(program: &str, arguments: &[&str]) -> Result<String> {
    let output = tokio::process::Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("running {program}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {arguments:?}: {}\n{text}\n{errors}", output.status);
    Ok(text)
}

/// Whether Python has this module; says that it is missing and skips where not.
pub async fn has_python_module(module: &str, package: &str) -> bool {
    let there = said("python3", &["-c", &format!("import {module}")]).await.is_ok();
    if !there {
        skip(&format!("{package} is not installed (pip install {package})"));
    }
    there
}

/// A program of this repository that plays a peer.
pub fn script(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(name).to_string_lossy().into_owned()
}

/// HAProxy with these sections behind usual defaults.
pub fn haproxy(stage: &Stage, program: &Path, sections: &str) -> Result<Process> {
    let text = format!(
        "global\n  maxconn 200\ndefaults\n  timeout connect 5s\n  timeout client 20s\n  timeout server 20s\n{sections}"
    );
    let file = stage.write("haproxy.cfg", &text)?;
    let mut command = Command::new(program);
    command.arg("-db").arg("-f").arg(file);
    Process::spawn("haproxy", command, &stage.folder().join("haproxy.log"))
}

/// nginx with these `http` and `stream` servers.
pub fn nginx(stage: &Stage, program: &Path, http: &str, stream: &str) -> Result<Process> {
    let folder = stage.folder().display();
    let mut text = String::new();
    if Path::new(NGINX_STREAM).exists() {
        let _ = writeln!(text, "load_module {NGINX_STREAM};");
    }
    let _ = writeln!(
        text,
        "daemon off;\nmaster_process off;\npid {folder}/nginx.pid;\nerror_log stderr;\nevents {{}}\nhttp {{\naccess_log off;"
    );
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        let _ = writeln!(text, "{kind}_temp_path {folder}/nginx-{kind};");
    }
    let _ = writeln!(text, "{http}\n}}\nstream {{\n{stream}\n}}");
    let file = stage.write("nginx.conf", &text)?;
    let mut command = Command::new(program);
    command.arg("-p").arg(stage.folder()).arg("-c").arg(file);
    Process::spawn("nginx", command, &stage.folder().join("nginx.log"))
}

/// A `listen` or `bind` address.
pub fn at(address: Ipv4Addr, port: u16) -> String {
    format!("{address}:{port}")
}
