{{/* The flags of `carrick controller`. */}}
{{- define "carrick.arguments" -}}
{{- $values := .Values }}
- controller
- --ingress-class={{ .Values.ingressClass.name }}
- --controller-name={{ .Values.controllerName }}
- --lease-name={{ include "carrick.fullname" . }}
- --keys-secret={{ .Release.Namespace }}/{{ include "carrick.fullname" . }}-keys
{{- with .Values.watchNamespaces }}
- --watch-namespace={{ join "," . }}
{{- end }}
{{- with include "carrick.publishService" . }}
- --publish-service={{ . }}
{{- end }}
{{- with .Values.publishAddresses }}
- --publish-address={{ join "," . }}
{{- end }}
{{- if .Values.manageTcpService }}
- --manage-tcp-service
{{- end }}
- --peers-service={{ .Release.Namespace }}/{{ include "carrick.fullname" . }}-peers
{{- if .Values.podDeletionCost }}
- --pod-deletion-cost
{{- end }}
- --host-ownership={{ .Values.hostOwnership }}
{{- if .Values.requireGrants }}
- --require-grants
{{- end }}
{{- if .Values.allowAddresses }}
- --allow-addresses
{{- end }}
{{- range $scheme := list "http" "https" }}
{{- with index $values.ports $scheme }}
- --{{ $scheme }}-port={{ ternary (toString .port) "off" .enabled }}
{{- if and .enabled (ne (int .exposedPort) (ternary 80 443 (eq $scheme "http"))) }}
- --public-{{ $scheme }}-port={{ .exposedPort }}
{{- end }}
{{- end }}
{{- end }}
{{- range .Values.listeners }}
{{- $pairs := list }}
{{- with .http }}{{ $pairs = append $pairs (printf "http:%d" (int .)) }}{{ end }}
{{- with .https }}{{ $pairs = append $pairs (printf "https:%d" (int .)) }}{{ end }}
- --listener={{ .name }}={{ join "," $pairs }}
{{- end }}
- --ops-bind=[::]:{{ .Values.ports.ops.port }}
- --admin-bind={{ .Values.ports.admin.bind }}
- --tcp-ports={{ .Values.tcpPorts }}
- --drain-timeout={{ .Values.drainTimeout }}
- --shutdown-delay={{ .Values.shutdownDelay }}
{{- with .Values.defaultTlsSecret }}
- --default-tls-secret={{ . }}
{{- end }}
{{- with .Values.trustedProxies }}
- --trusted-proxies={{ join "," . }}
{{- end }}
{{- if ne .Values.proxyProtocol "Off" }}
- --proxy-protocol={{ .Values.proxyProtocol }}
{{- end }}
{{- if .Values.tlsTerminatedUpstream }}
- --tls-terminated-upstream
{{- end }}
{{- with .Values.lbHealthPath }}
- --lb-health-path={{ . }}
{{- end }}
{{- with .Values.staticRoot }}
- --static-root={{ . }}
{{- end }}
- --log={{ .Values.log.filter }}
- --log-format={{ .Values.log.format }}
{{- if .Values.log.access }}
- --access-log
{{- end }}
{{- range .Values.extraArgs }}
- {{ . }}
{{- end }}
{{- end }}

{{/* Ports below 10240 are never taken for connections to backends; what we listen to above them is reserved. */}}
{{- define "carrick.sysctls" -}}
{{- if kindIs "slice" .Values.sysctls }}
{{- toYaml .Values.sysctls }}
{{- else if not .Values.hostNetwork }}
- {name: net.ipv4.ip_local_port_range, value: "10240 65535"}
{{- $reserved := list }}
{{- if ne (toString .Values.tcpPorts) "off" }}
{{- $reserved = append $reserved (toString .Values.tcpPorts) }}
{{- end }}
{{- range (include "carrick.ports" . | fromYamlArray) }}
{{- if ge (int .port) 10240 }}
{{- $reserved = append $reserved (toString .port) }}
{{- end }}
{{- end }}
{{- with $reserved }}
- {name: net.ipv4.ip_local_reserved_ports, value: {{ join "," . | quote }}}
{{- end }}
{{- end }}
{{- end }}

{{/* The pod, of a Deployment or a DaemonSet. Nothing in it changes with the chart's version alone: pods roll for a reason. */}}
{{- define "carrick.pod" -}}
metadata:
  labels:
    {{- include "carrick.selectorLabels" . | nindent 4 }}
    {{- with .Values.commonLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .Values.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "carrick.serviceAccountName" . }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  # A Service called carrick-http would set CARRICK_HTTP_PORT, which is one of our flags.
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- if .Values.hostNetwork }}
  hostNetwork: true
  {{- end }}
  dnsPolicy: {{ default (ternary "ClusterFirstWithHostNet" "ClusterFirst" .Values.hostNetwork) .Values.dnsPolicy }}
  securityContext:
    {{- toYaml .Values.podSecurityContext | nindent 4 }}
    {{- with include "carrick.sysctls" . | trim }}
    sysctls:
      {{- . | nindent 6 }}
    {{- end }}
  containers:
  - name: carrick
    image: {{ include "carrick.image" . }}
    imagePullPolicy: {{ .Values.image.pullPolicy }}
    args:
      {{- include "carrick.arguments" . | trim | nindent 6 }}
    {{- if or .Values.extraEnv (not .Values.watchNamespaces) }}
    env:
      {{- if not .Values.watchNamespaces }}
      # Its zone is ours. Roles alone can't read a node: there it is --zone that says it.
      - name: CARRICK_NODE_NAME
        valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
      {{- end }}
      {{- with .Values.extraEnv }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    {{- end }}
    ports:
    {{- range (include "carrick.ports" . | fromYamlArray) }}
    - name: {{ .name }}
      containerPort: {{ .port }}
      {{- with .hostPort }}
      hostPort: {{ . }}
      {{- end }}
    {{- end }}
    - name: ops
      containerPort: {{ .Values.ports.ops.port }}
    livenessProbe:
      {{- toYaml .Values.livenessProbe | nindent 6 }}
    readinessProbe:
      {{- toYaml .Values.readinessProbe | nindent 6 }}
    resources:
      {{- toYaml .Values.resources | nindent 6 }}
    securityContext:
      {{- toYaml .Values.securityContext | nindent 6 }}
    {{- with .Values.extraVolumeMounts }}
    volumeMounts:
      {{- toYaml . | nindent 6 }}
    {{- end }}
  {{- with .Values.extraContainers }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- with .Values.extraVolumes }}
  volumes:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if kindIs "slice" .Values.topologySpreadConstraints }}
  {{- with .Values.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- tpl (toYaml .) $ | nindent 4 }}
  {{- end }}
  {{- else if eq .Values.kind "Deployment" }}
  topologySpreadConstraints:
  {{- range $key := list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - topologyKey: {{ $key }}
    maxSkew: 1
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "carrick.selectorLabels" $ | nindent 8 }}
    matchLabelKeys: [pod-template-hash]
  {{- end }}
  {{- end }}
{{- end }}
