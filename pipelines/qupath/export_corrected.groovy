/*
 * Writes the nuclei of the open image as they are after correction, as GeoJSON.
 *
 * All detections with an area are written: wsiseg's, whether touched or not, and those drawn or
 * converted by hand.  A nucleus of wsiseg keeps its UUID and its measurements; the latter are of
 * the outline wsiseg found, not of a corrected one.  Compare UUIDs with cells.parquet to see what
 * was removed.
 *
 * QuPath: Automate > Script editor > open this file > Run.  Command line (one file an image, in
 * a folder that exists):
 *     QuPath script --project p.qpproj --args FOLDER export_corrected.groovy
 */
import qupath.fx.dialogs.FileChoosers
import qupath.lib.io.PathIO

import static qupath.lib.scripting.QP.*

// Classes wanted; [] for all nuclei, also those without a class.
List<String> classes = []

def server = getCurrentServer()
if (server == null)
    throw new IllegalStateException('No image is open; open a slide first')

def file = server.getURIs().collect { new File(it.getPath() ?: '').getName() }.find { !it.isEmpty() }
String name = (file ?: server.getMetadata().getName()).replaceAll(/[\\\/:*?"<>|]/, '_') + '.corrected.geojson.gz'
File target
if (args)
    target = new File(args[0]).isDirectory() ? new File(args[0], name) : new File(args[0])
else
    target = FileChoosers.promptToSaveFile('Nuclei of this image', new File(name), FileChoosers.createExtensionFilter('Packed GeoJSON', '.geojson.gz'))
if (target == null)
    return

def nuclei = getDetectionObjects().findAll { it.getROI() != null && it.getROI().isArea() }
if (!classes.isEmpty())
    nuclei = nuclei.findAll { it.getPathClass() != null && classes.contains(it.getPathClass().toString()) }
PathIO.exportObjectsAsGeoJSON(target.toPath(), nuclei, PathIO.GeoJsonExportOptions.FEATURE_COLLECTION)
int byHand = nuclei.count { !it.getMeasurementList().containsKey('wsiseg: Cell id') }
println(target.getPath() + ': ' + nuclei.size() + ' nuclei, ' + byHand + ' of them not from wsiseg')
