//! A headless Chromium, driven over WebDriver: what a person sees of the dashboard.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use fantoccini::wd::{Capabilities, WebDriverCompatibleCommand};
use fantoccini::{Client, ClientBuilder};
use hyper::http::Method;
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use url::{ParseError, Url};

use crate::peer::find;
use crate::process::Process;
use crate::stage::{Stage, skip};
use crate::wait::{eventually, secs};

/// A window of 1280×800, and the programs behind it.
pub struct Window {
    /// The page.
    pub page: Client,
    shots: PathBuf,
    _driver: Process,
}

impl Window {
    /// Opens one; `None`, with the reason printed, where no Chromium is installed.
    pub async fn open(stage: &Stage, shots: &Path) -> Result<Option<Self>> {
        let (Some(driver), Some(browser)) = (find("chromedriver"), find("chromium")) else {
            skip("chromium and chromium-driver are not installed");
            return Ok(None);
        };
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = Command::new(driver);
        command.arg(format!("--port={port}")).env("HOME", stage.folder()).env("TMPDIR", stage.folder());
        let mut driver = Process::spawn("chromedriver", command, &stage.folder().join("chromedriver.log"))?;
        let profile = format!("--user-data-dir={}", stage.folder().join("chromium").display());
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--window-size=1280,800",
            &profile,
        ];
        let wanted = json!({
            "goog:chromeOptions": { "binary": browser, "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL" },
        });
        let wanted: Capabilities = serde_json::from_value(wanted)?;
        let page = eventually("chromium starts", secs(40), async || {
            driver.must_run()?;
            let mut builder = ClientBuilder::new(HttpConnector::new());
            builder.capabilities(wanted.clone());
            Ok(builder.connect(&format!("http://127.0.0.1:{port}")).await?)
        })
        .await?;
        std::fs::create_dir_all(shots)?;
        Ok(Some(Self { page, shots: shots.to_owned(), _driver: driver }))
    }

    /// Keeps what is seen now.
    pub async fn shoot(&self, name: &str) -> Result<PathBuf> {
        let path = self.shots.join(format!("{name}.png"));
        std::fs::write(&path, self.page.screenshot().await?)?;
        Ok(path)
    }

    /// Runs JavaScript in the page; what it returns.
    pub async fn run(&self, script: &str) -> Result<Value> {
        self.page.execute(script, Vec::new()).await.with_context(|| script.to_owned())
    }

    /// An error with what the browser complained of, if it did: a script that fails, a policy that is broken.
    pub async fn no_complaint(&self, but: &[&str]) -> Result<()> {
        let entries = self.page.issue_cmd(Console).await?;
        let severe = entries.as_array().into_iter().flatten().filter(|entry| entry["level"] == "SEVERE");
        let told: Vec<String> = severe.map(|entry| entry["message"].to_string()).collect();
        let told: Vec<&String> =
            told.iter().filter(|text| !but.iter().any(|but| text.contains(but))).collect();
        ensure!(told.is_empty(), "the browser complains: {told:?}");
        Ok(())
    }

    /// Ends the browser.
    pub async fn close(self) -> Result<()> {
        Ok(self.page.close().await?)
    }
}

/// What chromedriver has of the console.
#[derive(Debug)]
struct Console;

impl WebDriverCompatibleCommand for Console {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, ParseError> {
        base.join(&format!("session/{}/se/log", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &Url) -> (Method, Option<String>) {
        (Method::POST, Some(json!({ "type": "browser" }).to_string()))
    }
}
