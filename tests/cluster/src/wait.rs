//! Owns bounded waiting on a predicate; it decides nothing about what is waited for.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::Instant;

const INTERVAL: Duration = Duration::from_millis(50);

/// Waits until `holds` answers true, asking every 50 ms. An error of the predicate ends the wait at once.
pub async fn until<F>(what: &str, bound: Duration, mut holds: F) -> Result<()>
where
    F: AsyncFnMut() -> Result<bool>,
{
    until_some(what, bound, async || Ok(holds().await?.then_some(()))).await
}

/// Waits until `ask` answers with a value, asking every 50 ms. An error ends the wait at once.
pub async fn until_some<T, F>(what: &str, bound: Duration, mut ask: F) -> Result<T>
where
    F: AsyncFnMut() -> Result<Option<T>>,
{
    let deadline = Instant::now() + bound;
    loop {
        if let Some(value) = ask().await? {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            bail!("waited {} s in vain for {what}", bound.as_secs_f32());
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_with_the_value_or_with_the_bound() {
        let mut asked = 0;
        let value = until_some("three", Duration::from_secs(1), async || {
            asked += 1;
            Ok((asked == 3).then_some(asked))
        });
        assert_eq!(value.await.unwrap(), 3);
        let error = until("rain", Duration::from_secs(2), async || Ok(false)).await.unwrap_err();
        assert_eq!(error.to_string(), "waited 2 s in vain for rain");
        let error = until("rain", Duration::from_secs(2), async || bail!("dry")).await.unwrap_err();
        assert_eq!(error.to_string(), "dry");
    }
}
