# The image of `make image`, for those who have an engine: docker build -t carrick .   or: podman build -t carrick .
FROM rust:1.95.0-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends cmake ca-certificates && rm -rf /var/lib/apt/lists/*
WORKDIR /carrick
COPY . .
RUN mkdir -p /image/etc/ssl/certs \
 && cp "$(packaging/build "$(uname -m)-unknown-linux-gnu")" /image/carrick \
 && cp /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ \
 && echo 'carrick:x:65532:65532:carrick:/:/sbin/nologin' > /image/etc/passwd

FROM scratch
LABEL org.opencontainers.image.title=carrick \
      org.opencontainers.image.source=https://github.com/carrick-dev/carrick \
      org.opencontainers.image.licenses=Apache-2.0
COPY --from=build /image/ /
USER 65532:65532
EXPOSE 8080 8443 9180
ENTRYPOINT ["/carrick"]
CMD ["--help"]
