{{- define "carrick.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* At most 55 characters, so that -metrics and -leader fit behind it. */}}
{{- define "carrick.fullname" -}}
{{- $name := include "carrick.name" . }}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) }}
{{- default $full .Values.fullnameOverride | trunc 55 | trimSuffix "-" }}
{{- end }}

{{/* Of what is cluster-scoped: two releases may have one name in two namespaces. */}}
{{- define "carrick.clusterName" -}}
{{- printf "%s-%s" .Release.Namespace (include "carrick.fullname" .) }}
{{- end }}

{{- define "carrick.serviceAccountName" -}}
{{- default (ternary (include "carrick.fullname" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name }}
{{- end }}

{{- define "carrick.selectorLabels" -}}
app.kubernetes.io/name: {{ include "carrick.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "carrick.labels" -}}
{{ include "carrick.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: carrick
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "carrick.image" -}}
{{- $image := .Values.image }}
{{- with $image.digest }}
{{- printf "%s@%s" $image.repository . }}
{{- else }}
{{- printf "%s:%s" $image.repository (default $.Chart.AppVersion $image.tag) }}
{{- end }}
{{- end }}

{{/* NAMESPACE/NAME of the Service whose addresses are published; nothing where none is. */}}
{{- define "carrick.publishService" -}}
{{- with .Values.publishService }}
{{- if and .enabled (not $.Values.publishAddresses) }}
{{- if .pathOverride }}
{{- .pathOverride }}
{{- else if $.Values.service.enabled }}
{{- printf "%s/%s" $.Release.Namespace (include "carrick.fullname" $) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Every port of the pod for clients: a list of name, port, and what the Service and the node make of it. */}}
{{- define "carrick.ports" -}}
{{- range $name := list "http" "https" }}
{{- with index $.Values.ports $name }}
{{- if .enabled }}
- name: {{ $name }}
  port: {{ .port }}
  exposedPort: {{ .exposedPort }}
  {{- with .nodePort }}
  nodePort: {{ . }}
  {{- end }}
  {{- with .hostPort }}
  hostPort: {{ . }}
  {{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- range $listener := .Values.listeners }}
{{- range $scheme := list "http" "https" }}
{{- with index $listener $scheme }}
- name: {{ printf "%s-%s" $listener.name $scheme }}
  port: {{ . }}
  exposedPort: {{ . }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Whether a node has room for one pod only. */}}
{{- define "carrick.takesNode" -}}
{{- if or .Values.hostNetwork .Values.ports.http.hostPort .Values.ports.https.hostPort }}true{{ end }}
{{- end }}

{{/* Whether there is more than one pod. */}}
{{- define "carrick.several" -}}
{{- $replicas := ternary .Values.autoscaling.minReplicas .Values.replicaCount .Values.autoscaling.enabled }}
{{- if or (eq .Values.kind "DaemonSet") (gt (int $replicas) 1) }}true{{ end }}
{{- end }}

{{/* Seconds of a duration such as 4m30s, rounded down. */}}
{{- define "carrick.seconds" -}}
{{- $sum := 0 }}
{{- range regexFindAll "[0-9]+(ms|h|m|s)" . -1 }}
{{- $number := regexFind "[0-9]+" . | int }}
{{- $unit := regexFind "[a-z]+" . }}
{{- $sum = add $sum (ternary 0 (mul $number (get (dict "h" 3600 "m" 60 "s" 1 "ms" 0) $unit)) (eq $unit "ms")) }}
{{- end }}
{{- $sum }}
{{- end }}

{{/* What the schema cannot tell. */}}
{{- define "carrick.validate" -}}
{{- $told := add (include "carrick.seconds" .Values.drainTimeout) (include "carrick.seconds" .Values.shutdownDelay) }}
{{- if le (int .Values.terminationGracePeriodSeconds) (int $told) }}
{{- fail (printf "terminationGracePeriodSeconds is %d and must be more than drainTimeout and shutdownDelay together, %d s: sockets would be cut" (int .Values.terminationGracePeriodSeconds) (int $told)) }}
{{- end }}
{{- if and .Values.manageTcpService (ne (include "carrick.publishService" .) (printf "%s/%s" .Release.Namespace (include "carrick.fullname" .))) }}
{{- fail "manageTcpService goes by the chart's own Service: it needs service.enabled and publishService.enabled, without pathOverride and publishAddresses" }}
{{- end }}
{{- if and (ne (toString .Values.tcpPorts) "off") .Values.manageTcpService .Values.service.tcpPorts }}
{{- fail "service.tcpPorts and manageTcpService are two ways to do one thing: give one of them" }}
{{- end }}
{{- if and .Values.watchNamespaces .Values.publishService.pathOverride }}
{{- if not (has (splitList "/" .Values.publishService.pathOverride | first) .Values.watchNamespaces) }}
{{- fail (printf "publishService.pathOverride %s is in none of watchNamespaces, so that it could not be read" .Values.publishService.pathOverride) }}
{{- end }}
{{- end }}
{{- if and .Values.watchNamespaces .Values.defaultTlsSecret }}
{{- if not (has (splitList "/" .Values.defaultTlsSecret | first) .Values.watchNamespaces) }}
{{- fail (printf "defaultTlsSecret %s is in none of watchNamespaces, so that it could not be read" .Values.defaultTlsSecret) }}
{{- end }}
{{- end }}
{{- if and .Values.staticRoot (not .Values.extraVolumeMounts) }}
{{- fail "staticRoot is a folder in the pod: mount it with extraVolumes and extraVolumeMounts" }}
{{- end }}
{{- end }}
