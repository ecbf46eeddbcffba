# Three stages: manifests alone, what builds, and a small image that runs.
FROM rust:1.95.0-bookworm AS manifests
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY crates crates
COPY src src
COPY benches benches
# Empty sources in their places: the result stays the same until a manifest changes.
RUN find . -type f ! -name Cargo.toml ! -name Cargo.lock ! -path '*/src/lib.rs' ! -path ./src/main.rs \
        ! -path './benches/*.rs' -delete \
    && find . -type d -empty -delete \
    && for file in $(find . -name '*.rs'); do echo 'fn main() {}' > "$file"; done

FROM rust:1.95.0-bookworm AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends clang libclang-dev pkg-config libssl-dev zlib1g-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
# The dependencies, RocksDB among them, in a layer that lasts until Cargo.lock or a manifest changes.
COPY --from=manifests /src ./
RUN cargo build --locked --release --bin askwhen
COPY crates crates
COPY src src
COPY topics topics
COPY web/dist web/dist
COPY web/console/dist web/console/dist
COPY docs/api.md docs/api.md
# Cargo compares times, and these files may be older than the layer above.
RUN find crates src -name '*.rs' -exec touch {} + \
    && cargo build --locked --release --bin askwhen \
    && cp target/release/askwhen /askwhen

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
