# Two stages: what builds, and a small image that runs.
FROM rust:1.95.0-bookworm AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends clang libclang-dev pkg-config libssl-dev zlib1g-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY Cargo.toml Cargo.lock rustfmt.toml ./
COPY crates crates
COPY src src
COPY topics topics
COPY web/dist web/dist
COPY benches benches
COPY tests tests
RUN CARGO_PROFILE_DEV_OPT_LEVEL=3 cargo build --locked --bin askwhen \
    && strip -o /askwhen target/debug/askwhen

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libssl3 zlib1g curl \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /data askwhen \
    && install -d -o askwhen -g askwhen /data /snapshots
COPY --from=build /askwhen /usr/local/bin/askwhen
USER askwhen
WORKDIR /data
VOLUME ["/data", "/snapshots"]
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
    CMD curl -fsS http://127.0.0.1:8080/readyz || exit 1
ENTRYPOINT ["askwhen"]
CMD ["--data-dir", "/data", "serve", "--listen", "0.0.0.0:8080"]
